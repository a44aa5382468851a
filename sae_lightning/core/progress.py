"""Progress of a long step: a bar on a terminal, a log line every few seconds anywhere else."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

logger = logging.getLogger(__name__)

_LOG_EVERY_SECONDS = 10.0


@runtime_checkable
class Advance(Protocol):
    """Say that ``amount`` more is done; ``note`` replaces the text after the bar."""

    def __call__(self, amount: float, note: str = "") -> None: ...


@contextmanager
def progress(description: str, total: float | None = None, show: bool = True) -> Iterator[Advance]:
    """Yield a function that advances the bar; ``total`` may be unknown. show: false says nothing."""
    if not show:
        yield _silent
    elif sys.stderr.isatty():
        with _bar(description, total) as advance:
            yield advance
    else:
        yield _log_lines(description, total)


@contextmanager
def _bar(description: str, total: float | None) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, note="")

        def advance(amount: float, note: str = "") -> None:
            bar.update(task, advance=amount, note=note)

        yield advance


def _silent(amount: float, note: str = "") -> None:
    """Advance a step that something else shows the progress of."""


def _log_lines(description: str, total: float | None) -> Advance:
    done = 0.0
    last = time.monotonic()

    def advance(amount: float, note: str = "") -> None:
        nonlocal done, last
        done += amount
        now = time.monotonic()
        if now - last >= _LOG_EVERY_SECONDS:
            last = now
            share = f" {done / total:.0%}" if total else ""
            logger.info("%s%s %s", description, share, note)

    return advance

"""Progress where there is no terminal: a log line now and then, with the share done; a bar where there is one."""

import io
import logging
import sys

import pytest

from sae_lightning.core import progress as module
from sae_lightning.core.progress import progress


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # no terminal
    return clock


def test_lines_come_every_ten_seconds_with_the_share_done(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sae_lightning")
    with progress("reading", total=200) as advance:
        for _ in range(100):  # a second a piece
            clock.now += 1.0
            advance(2, note="a note")
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 10
    assert lines[0] == "reading 10% a note"
    assert lines[-1] == "reading 100% a note"


def test_a_short_step_says_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sae_lightning")
    with progress("reading", total=200) as advance:
        clock.now += 9.0
        advance(200)
    assert not caplog.records


def test_an_unknown_total_has_no_share(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sae_lightning")
    with progress("reading") as advance:
        clock.now += 11.0
        advance(7, note="7 documents")
    assert [r.getMessage() for r in caplog.records] == ["reading 7 documents"]


def test_a_terminal_gets_a_bar(monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("reading", total=4) as advance:
        advance(1, note="one of them")
        advance(3)
    assert "reading" in terminal.getvalue()
    assert not caplog.records

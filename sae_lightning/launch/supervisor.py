"""Starts the processes of a run, passes signals on to them, and ends all when one of them dies."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sae_lightning.command import in_use
from sae_lightning.config import RunConfig, save_config
from sae_lightning.core.errors import UserError
from sae_lightning.launch.overrides import assign
from sae_lightning.launch.ranks import FOLDER, LOST, among_ranks, word_path

logger = logging.getLogger("sae_lightning.train")

_POLL_SECONDS = 0.1
# How long the others may take to end by themselves when one has died, and when all have been asked to stop.
_GRACE_SECONDS = 3.0
_STOP_SECONDS = 45.0


class RanksEnded(UserError):  # noqa: N818 - says what happened
    """A process of the run died, and the others were ended. code: what the command should exit with."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def as_a_run_of_many() -> Iterator[None]:
    """End a command as a run in several processes ends: the supervisor by its exit code, a process by leaving word."""
    try:
        with among_ranks():
            yield
    except RanksEnded as ended:
        logger.error("%s", ended)
        raise SystemExit(ended.code) from None


def supervise(
    config: RunConfig,
    run_dir: Path,
    lanes: Mapping[str, RunConfig] | None = None,
    overrides: Sequence[str] | None = None,
    *,
    resume: bool = False,
) -> Path:
    """Train the run of a config in ``trainer.devices`` processes of this machine; return its folder when it is done.

    Each is ``python -m sae_lightning.train resume=RUN_DIR``: a run folder without a checkpoint is a run to be begun.
    Rank 0 has the terminal; what the others have to say is in ``ranks/rank-N.log``.

    Raises UserError for a mistake that a process found, RanksEnded where one died, SystemExit (128 + signal) after an
    orderly stop.
    """
    existed = resume or in_use(run_dir)
    if not resume:
        _prepare(config, run_dir, lanes, overrides)
    world = config.trainer.devices
    with tempfile.TemporaryDirectory(prefix="sae_lightning-ranks-") as folder:
        processes = _start(config, run_dir, world, Path(folder))
        try:
            with _passing_on(processes) as received:
                codes = _wait(processes, received)
        finally:
            _kill(processes)
        words = {
            rank: json.loads(path.read_text(encoding="utf-8"))
            for rank in range(world)
            if (path := word_path(folder, rank)).is_file()
        }
    # Asked to stop when there was nothing left to do.
    if not any(codes) or (received and (run_dir / "metrics.json").is_file()):
        return run_dir
    mistakes = [word["mistake"] for _, word in sorted(words.items()) if "mistake" in word]
    if mistakes:
        # Written once everything is built: what goes wrong after it is no mistake of the command line.
        if not existed and not (run_dir / "environment.json").is_file():
            logging.shutdown()
            shutil.rmtree(run_dir, ignore_errors=True)
        raise UserError(mistakes[0])
    raise _verdict(codes, words, run_dir, received)


def _prepare(
    config: RunConfig, run_dir: Path, lanes: Mapping[str, RunConfig] | None, overrides: Sequence[str] | None
) -> None:
    from sae_lightning.build.again import save_overrides

    save_config(config, run_dir)
    if overrides is not None:
        save_overrides(run_dir, overrides)
    if config.bank is not None:
        for name, lane in (lanes or {}).items():
            save_config(lane, run_dir / "lanes" / name)


def _start(config: RunConfig, run_dir: Path, world: int, folder: Path) -> list[subprocess.Popen[bytes]]:
    progress = f"progress={str(config.progress).lower()}"
    words = [sys.executable, "-m", "sae_lightning.train", assign("resume", str(run_dir)), progress]
    threads = max(1, len(os.sched_getaffinity(0)) // world) if hasattr(os, "sched_getaffinity") else 1
    (run_dir / "ranks").mkdir(parents=True, exist_ok=True)
    processes = []
    for rank in range(world):
        own = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world, FOLDER: folder}
        env = {"OMP_NUM_THREADS": str(threads)} | os.environ | {name: str(value) for name, value in own.items()}
        log: IO[bytes] | None = None if rank == 0 else open(log_path(run_dir, rank), "ab")  # noqa: SIM115
        # A session of its own: Ctrl-C comes to the supervisor alone, which passes it on once.
        pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        processes.append(subprocess.Popen(words, env=env, start_new_session=True, **pipes))
        if log is not None:
            log.close()
    return processes


def log_path(run_dir: Path, rank: int) -> Path:
    """Return where a process other than rank 0 writes what it would have said on the terminal."""
    return run_dir / "ranks" / f"rank-{rank}.log"


@contextmanager
def _passing_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Pass SIGINT and SIGTERM on to all processes; gives the list of those that came."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        for process in processes:
            if process.returncode is None:
                process.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: Sequence[subprocess.Popen[bytes]], received: Sequence[int]) -> list[int]:
    """Wait for all to end, for some moments only once one has not ended well; return their exit codes."""
    until = float("inf")
    while True:
        codes = [process.poll() for process in processes]
        if None not in codes:
            break
        bad = [code for code in codes if code]
        if bad:
            patience = _STOP_SECONDS if received or all(code > 128 for code in bad) else _GRACE_SECONDS
            until = min(until, time.monotonic() + patience)
        if time.monotonic() >= until:
            break
        time.sleep(_POLL_SECONDS)
    return [LOST if code is None else code for code in codes]


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()


def _verdict(
    codes: Sequence[int], words: Mapping[int, Any], run_dir: Path, received: Sequence[int]
) -> RanksEnded | SystemExit:
    """Return what to raise: the first cause, not what followed from it."""
    stopped = [code for code in codes if code > 128]
    if stopped and all(code in (*stopped, 0, LOST) for code in codes):
        return SystemExit(stopped[0])
    told = any("failure" in word for word in words.values())
    # A process that is interrupted outside of training ends with 1 and has nothing to say.
    if received and all(code in (-received[-1], 0, LOST, *([] if told else [1])) for code in codes):
        return SystemExit(128 + received[-1])  # before the first step or after the last, when nothing is to be saved
    go_on = f"all processes have been ended; continue with: python -m sae_lightning.train resume={run_dir}"
    whole = len(codes)
    for rank, code in enumerate(codes):
        if code < 0:
            what = signal.Signals(-code).name
            hint = " (by hand, or for want of memory)" if -code == signal.SIGKILL else ""
            return RanksEnded(f"rank {rank} of {whole} was killed by {what}{hint}; {go_on}", 128 - code)
    rank = next((rank for rank, code in enumerate(codes) if code not in (0, LOST)), 0)
    said = " ".join(str(words.get(rank, {}).get("failure", "it left no word")).split())[:300]
    where = "" if rank == 0 else f" (its log: {log_path(run_dir, rank)})"
    return RanksEnded(f"rank {rank} of {whole} failed: {said}{where}; {go_on}", 1)

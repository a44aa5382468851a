"""What a measuring process knows of itself, and how one is started: each configuration has its own, so that the peak
of its memory is its own."""

import json
import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_STATUS = Path("/proc/self/status")
_LONGEST_REASON = 200


class MeasuringFailed(Exception):  # noqa: N818 - says what happened
    """A measuring process ended without a result; the text is the end of what it said."""


def resident_mib() -> float:
    """Return the memory that this process holds now, in MiB."""
    return _status("VmRSS")


def peak_resident_mib() -> float:
    """Return the most that this process has held, in MiB.

    VmHWM, not getrusage: the latter counts what the parent held before it became this process.
    """
    return _status("VmHWM")


def _status(key: str) -> float:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"{_STATUS}: has no {key}; memory is measured on Linux only")


def process_started() -> float:
    """Return when this process was started, on the clock of ``time.perf_counter``."""
    ticks = float(Path("/proc/self/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.perf_counter() - age


def run_json(command: Sequence[str], threads: int, *, timeout: float = 3600) -> dict[str, Any]:
    """Run a command of this tree that prints one JSON line, in a process of its own; return what it printed.

    threads: also the limit of the libraries below torch. Raises MeasuringFailed when it fails or prints nothing.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "RAYON_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "PYTHONPATH": str(ROOT),
    }
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise MeasuringFailed(f"took longer than {timeout:g} s") from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise MeasuringFailed(f"exit {done.returncode}: {reason(done.stderr or done.stdout)}")
    return json.loads(lines[-1])


def reason(said: str) -> str:
    """Return the line of a failed process's output that says why: its last error, else its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|error)\b.*:", line)]
    return (errors or lines or ["said nothing"])[-1][:_LONGEST_REASON]

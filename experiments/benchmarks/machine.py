"""What a table says of where it was measured."""

import os
import platform
from pathlib import Path

import torch


def cpu_name() -> str:
    """Return the processor's own name, or its architecture where it says none."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def describe(device: str, threads: int) -> str:
    """Return one line: device, threads, versions."""
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name()
    cores = len(os.sched_getaffinity(0))
    return f"{where}, {cores} cores, {threads} threads, torch {torch.__version__}, Python {platform.python_version()}"

"""What a run ran on and with: package versions, source revision, machine."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

PACKAGES = (
    "sae_lightning",
    "torch",
    "lightning",
    "hydra-core",
    "omegaconf",
    "transformer_lens",
    "transformers",
    "datasets",
    "tensorboard",
    "pydantic",
    "safetensors",
    "numpy",
)
_MAX_PATCH = 1_000_000


def describe_environment() -> dict[str, Any]:
    """Return versions, the source's git sha and patch (None outside a checkout), and the machine. No variables of the
    environment, no host name, no user name: nothing that a published run folder should not say."""
    return {"packages": _versions(), "git": _git(), "machine": _machine()}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _git() -> dict[str, str] | None:
    root = Path(__file__).resolve().parents[2]
    frozen = root / "source.json"
    if frozen.is_file():  # a copy that a sweep took at submission: it says what it is a copy of
        return json.loads(frozen.read_text(encoding="utf-8")).get("git")
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.decode(errors="replace") if done.returncode == 0 else None

    sha = git("rev-parse", "HEAD")
    if sha is None:
        return None
    patch = git("diff", "HEAD", "--", "sae_lightning", "conf", "experiments") or ""
    untracked = git("ls-files", "--others", "--exclude-standard", "--", "sae_lightning", "conf", "experiments") or ""
    if len(patch) > _MAX_PATCH:
        patch = patch[:_MAX_PATCH] + "\n[cut]\n"
    return {"sha": sha.strip(), "patch": patch, "untracked": untracked}


def _machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "byteorder": sys.byteorder,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()

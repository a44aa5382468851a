"""The peers' environment. Ordinary test runs have none and collect nothing here; see ``make test-interop``."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PYTHON = os.environ.get("INTEROP_PYTHON")
PEER = Path(__file__).parent / "peer"

if PYTHON is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def peers() -> Callable[[Path, list[dict[str, Any]]], None]:
    """Return a function that has the libraries do a list of jobs (see peer/run.py) in a process of their own."""

    def run(folder: Path, jobs: list[dict[str, Any]]) -> None:
        assert PYTHON is not None
        file = folder / "jobs.json"
        file.write_text(json.dumps(jobs))
        quiet = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        # A Python of ours in the caller's variables is none of theirs.
        env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | quiet
        out = subprocess.run([PYTHON, PEER / "run.py", file], env=env, capture_output=True, text=True, check=False)
        assert out.returncode == 0, out.stderr[-3000:]

    return run

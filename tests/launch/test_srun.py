"""Tasks that srun starts are the processes of one run."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.slurm_cluster import OneNode
from tests.launch.test_supervisor import SETTINGS


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneNode]:
    one = OneNode(tmp_path_factory.mktemp("slurm"))
    try:
        one.start()
        yield one
    finally:
        one.stop()


def test_tasks_of_srun_train_one_run_together(cluster: OneNode, rows_file: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    words = [*SETTINGS, f"data.path={rows_file}", "tokens=5120", f"paths.run_dir={run_dir}"]
    done = subprocess.run(
        ["srun", "-n", "2", "--overcommit", sys.executable, "-m", "sae_lightning.train", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["processes"] == 2
    assert metrics["tokens"] == 5120
    assert done.stdout.count("run folder") == 1, "the first one alone shows the result"

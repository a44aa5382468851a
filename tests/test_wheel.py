"""An installed wheel works like a checkout, from any folder: conf/ travels inside it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import ROOT


def test_train_from_an_installed_wheel(tmp_path: Path, tiny_run: list[str]) -> None:
    build = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-q", "-w", "."]
    subprocess.run(build, cwd=tmp_path, check=True, timeout=120)
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        wheel.extractall(site)
    assert "sae_lightning/conf/train.yaml" in names
    assert not [n for n in names if n.startswith(("tests", "experiments", "conf/"))]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sae_lightning.train", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    where = "import sae_lightning; print(sae_lightning.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(site) in found.stdout
    done = run(*tiny_run, "tokens=640", "paths.run_dir=run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["git"] is None

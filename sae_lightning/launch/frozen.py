"""The source as it is at submission: copied beside the sweep, so that a later edit changes no queued job."""

import datetime
import hashlib
import json
import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from sae_lightning.command import conf_dir
from sae_lightning.core import write_json

logger = logging.getLogger(__name__)

_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.py[co]", ".*")


def freeze(sweep_dir: Path) -> Path:
    """Copy the package and its conf to ``sweep_dir/source`` and return that folder; source.json says what it is.

    Once a sweep: when the folder is there (a sweep that is gone on with, a later batch of trials) it stays as it is,
    so that all runs of a sweep share one source; when the checkout has changed since, a warning says so.
    """
    package = Path(__file__).resolve().parents[1]
    target = sweep_dir / "source"
    folders = {package.name: package, "conf": conf_dir()}
    if conf_dir().parent == package:  # installed from a wheel: conf lies in the package
        del folders["conf"]
    if (target / "source.json").is_file():
        if json.loads((target / "source.json").read_text(encoding="utf-8"))["sha256"] != tree_hash(folders):
            logger.warning("%s: frozen before the present state of the source; these jobs use the frozen one", target)
        return target
    temporary = sweep_dir / f".source.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    for name, folder in folders.items():
        shutil.copytree(folder, temporary / name, ignore=_LEFT_OUT)
    write_json(temporary / "source.json", _describe({name: temporary / name for name in folders}, package.parent))
    temporary.rename(target)
    return target


def tree_hash(folders: dict[str, Path]) -> str:
    """Return one SHA-256 over the names and bytes of all files below ``folders`` that a freeze copies."""
    digest = hashlib.sha256()
    for name, folder in sorted(folders.items()):
        for root, below, files in os.walk(folder):
            ignored = _LEFT_OUT(root, [*below, *files])
            below[:] = sorted(set(below) - ignored)
            for file in sorted(set(files) - ignored):
                path = Path(root, file)
                digest.update(f"{name}/{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def job_environment(source: Path, cwd: Path) -> dict[str, str]:
    """Return the variables that make ``python -m sae_lightning...`` import from ``source``.

    PYTHONPATH comes before installed packages, editable ones too; but ``-m`` puts the working folder before both, and
    that may be the checkout: PYTHONSAFEPATH takes it away, and it is named again behind, for modules of the user's own.
    """
    paths = [str(source), str(cwd), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


def _describe(copied: dict[str, Path], root: Path) -> dict[str, Any]:
    from sae_lightning.reports import describe_environment  # imports torch, to name its version

    environment = describe_environment()
    git = environment["git"]
    if git is not None:
        new = [line for line in git.pop("untracked").splitlines() if line.split("/", 1)[0] in copied]
        git["patch"] += "".join(_as_patch(root, file) for file in new)
    return {
        "sha256": tree_hash(copied),
        "frozen": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": git,
        "packages": environment["packages"],
    }


def _as_patch(root: Path, file: str) -> str:
    """Return an untracked file as the patch that would add it."""
    words = ["git", "-C", str(root), "diff", "--no-index", "--", os.devnull, file]
    return subprocess.run(words, capture_output=True, check=False, timeout=20).stdout.decode(errors="replace")

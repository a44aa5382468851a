"""An export's folder: written beside, moved into place whole, and never over files of something else."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from sae_lightning.core import UserError
from sae_lightning.sae.formats.registry import patterns

CARD = "README.md"


def check_place(out: Path, overwrite: bool) -> None:
    """Raise UserError for a folder that an export may not be written to.

    An empty one is fine. overwrite: so is one that holds an earlier export and nothing else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out}: is a file; give a folder")
    there = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    if there and not overwrite:
        raise UserError(f"out={out}: is not empty; give another folder, or overwrite=true for an earlier export")
    if others := [name for name in there if name not in {*patterns(), CARD}]:
        raise UserError(f"out={out}: holds what no export wrote ({', '.join(others[:3])}); give another folder")


@contextmanager
def placed(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder beside ``out``; on success its files take the place of those in ``out``, else it goes."""
    check_place(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    new = Path(mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield new
        umask = os.umask(0)
        os.umask(umask)
        new.chmod(0o777 & ~umask)  # mkdtemp's own are for one user alone, and so may be those of its files
        for file in new.iterdir():
            file.chmod(0o666 & ~umask)
        if out.exists():
            shutil.rmtree(out)
        new.replace(out)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise

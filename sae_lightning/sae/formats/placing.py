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
    if out.resolve() == Path.cwd():
        raise UserError(f"out={out}: is the folder you are in, and an export takes a folder's place; give a new one")
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out}: is a file; give a folder")
    there = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    if there and not overwrite:
        raise UserError(f"out={out}: is not empty; give another folder, or overwrite=true for an earlier export")
    if others := [name for name in there if name not in {*patterns(), CARD}]:
        raise UserError(f"out={out}: holds what no export wrote ({', '.join(others[:3])}); give another folder")


@contextmanager
def placed(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder beside ``out``; on success it takes the place of ``out``, else it goes.

    Raises UserError for a place that an export may not take, and where nothing can be written.
    """
    check_place(out, overwrite)
    # A link to a folder stays a link: what it points to is replaced.
    target = out.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        new = Path(mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield new
            _open_up(new)
            check_place(out, overwrite)  # again: others may have written there meanwhile
            _swap(new, target)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
    except OSError as error:
        raise UserError(f"out={out}: can't be written ({error}); free space or choose another folder") from error


def _open_up(folder: Path) -> None:
    """Give a folder the usual rights: mkdtemp's own are for one user alone, and so may be those of its files."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~umask)


def _swap(new: Path, target: Path) -> None:
    """Rename ``new`` to ``target``; what was there is put aside first and removed last, so one of them always is."""
    if not target.exists():
        new.replace(target)
        return
    aside = new.with_name(f"{new.name}.old")
    target.rename(aside)
    try:
        new.replace(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)

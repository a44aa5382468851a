"""A report's folder: written beside its place, and in it only when it is whole."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sae_lightning.core import UserError
from sae_lightning.core.files import fsync_folder, write_json
from sae_lightning.core.locks import file_lock

FORMAT, VERSION = "sae_lightning.report", 1
#: What tells a report's folder from any other, with the names of what was written into it.
MARK = "report.json"


@contextmanager
def report_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``out``; on success it takes ``out``'s place, else it is removed.

    An earlier report there is replaced, but for what somebody else put into its folder: that stays. Raises UserError
    where ``out`` is something else than a report, an empty folder or nothing.
    """
    out = Path(out).expanduser().absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (out.with_name(f".{out.name}.{word}") for word in ("partial", "old"))
    with file_lock(out.with_name(f".{out.name}.lock")):
        if old.exists() and not out.exists():  # killed between the two renames
            old.replace(out)
        check_replaceable(out)
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            names = sorted({MARK, *(path.name for path in partial.iterdir())})
            write_json(partial / MARK, {"format": FORMAT, "version": VERSION, "files": names})
            _replace(out, partial, old)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def check_replaceable(out: Path) -> None:
    """Raise UserError where a report can't be written to ``out``: it would replace what is no report."""
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise UserError(f"out={out}: is a file; give a folder")
    if any(out.iterdir()) and _written(out) is None:
        raise UserError(f"out={out}: holds something that is no report; give another folder")


def _written(folder: Path) -> set[str] | None:
    """Return the names that a report was written under; None where the folder is no report of ours."""
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        return set(mark["files"]) if mark["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _replace(out: Path, partial: Path, old: Path) -> None:
    if not out.exists():
        partial.replace(out)
    else:
        ours = _written(out) or set()
        out.replace(old)
        partial.replace(out)
        for path in old.iterdir():
            if path.name not in ours and not (out / path.name).exists():
                path.replace(out / path.name)
        shutil.rmtree(old)
    fsync_folder(out.parent)

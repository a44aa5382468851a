"""Formats by name and by the files in a folder: every module of this package is asked."""

import pkgutil
from importlib import import_module
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

import sae_lightning.sae.formats as package
from sae_lightning.core import UserError, nearest
from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.formats.base import Format


def names() -> tuple[str, ...]:
    """Return the known formats, sorted."""
    return tuple(sorted(_formats()))


def get(name: str) -> Format:
    """Return the format of that name. Raises UserError that names near ones."""
    known = _formats()
    if name not in known:
        raise UserError(f"format {name!r}: must be one of {', '.join(sorted(known))}{nearest(str(name), known)}")
    return known[name]


def read(path: str | Path) -> SparseAutoencoder:
    """Return the SAE in ``path``, whichever format it has: a folder, a run folder with ``export/``, or a ``.pt`` file.

    ``.metadata`` has this package's form (sites, lm, mask, data) as far as the files say, None where they don't, and
    ``source`` for what came from elsewhere. Raises UserError for nothing recognisable, several formats in one folder,
    and damaged or contradictory files.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"SAE {path}: no such file or folder; give the folder of an SAE")
    found = [form for _, form in sorted(_formats().items()) if form.recognise(path)]
    if len(found) > 1:
        both = " and ".join(form.name for form in found)
        raise UserError(f"SAE {path}: holds files of {both}; leave those of one format in the folder")
    if not found:
        known = "; ".join(f"{form.name}: {form.files}" for _, form in sorted(_formats().items()))
        raise UserError(f"SAE {path}: holds no SAE of a known format{_inside(path)}. Known are {known}")
    return found[0].read(path)


def write(name: str, sae: SparseAutoencoder, folder: str | Path, rows: Tensor | None = None) -> Path:
    """Write ``sae`` to ``folder`` in the format ``name`` and return the folder; see ``Format.write``.

    Raises UserError for an unknown format, an SAE it can't hold, and a folder that can't be written.
    """
    folder = Path(folder).expanduser()
    form = get(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        form.write(sae, folder, rows)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: can't be written ({error}); free space or choose another folder") from error
    return folder


def patterns() -> set[str]:
    """Return the names of all files that formats write."""
    return {name for form in _formats().values() for name in form.patterns}


def _inside(path: Path) -> str:
    """Name SAEs one level below, or in a bank's ``lanes/``: people point at the folder around them."""
    if not path.is_dir():
        return ""
    folders = [p for p in (*sorted(path.iterdir()), *sorted(path.glob("lanes/*"))) if p.is_dir()]
    below = [str(p.relative_to(path)) for p in folders if any(form.recognise(p) for form in _formats().values())]
    more = f" and {len(below) - 5} more" if len(below) > 5 else ""
    return f" itself, but in its folders {', '.join(below[:5])}{more}: give one of them" if below else ""


def _formats() -> dict[str, Format]:
    # A new file in the folder is enough: importing it registers its class.
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    return Format.registered

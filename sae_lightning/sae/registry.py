"""Architectures by name: every class with a ``name`` in this package, or defined elsewhere before it is asked for."""

import pkgutil
from importlib import import_module

import sae_lightning.sae as package
from sae_lightning.core import UserError, nearest
from sae_lightning.sae.base import SparseAutoencoder


def architecture_names() -> tuple[str, ...]:
    """Return the known names, sorted."""
    return tuple(sorted(_architectures()))


def sae_class(name: str) -> type[SparseAutoencoder]:
    """Return the class of that name. Raises UserError that names near ones."""
    known = _architectures()
    if name not in known:
        raise UserError(f"architecture {name!r}: must be one of {', '.join(sorted(known))}{nearest(str(name), known)}")
    return known[name]


def _architectures() -> dict[str, type[SparseAutoencoder]]:
    # A new file in the folder is enough: importing it registers its class.
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:
            import_module(f"{package.__name__}.{module.name}")
    return SparseAutoencoder.registered

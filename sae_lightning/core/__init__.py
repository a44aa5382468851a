"""What every room shares: batch types, seeds, schedules, errors and atomic files. Imports nothing above.

Names are loaded when they are first used: commands answer ``--help`` and a misspelt key without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_lightning.core.errors import UserError, nearest
    from sae_lightning.core.estimate import Estimate
    from sae_lightning.core.files import atomic_path, file_sha256, write_json
    from sae_lightning.core.permutation import Permutation
    from sae_lightning.core.ranks import ALONE, Ranks
    from sae_lightning.core.schedules import Schedule
    from sae_lightning.core.seeds import derive_seed, torch_generator
    from sae_lightning.core.types import ActivationBatch, Features, SAEOutput, Sites, TokenBatch, WindowBatch

_HOME = {
    "Estimate": "estimate",
    "UserError": "errors",
    "nearest": "errors",
    "atomic_path": "files",
    "file_sha256": "files",
    "write_json": "files",
    "Permutation": "permutation",
    "ALONE": "ranks",
    "Ranks": "ranks",
    "Schedule": "schedules",
    "derive_seed": "seeds",
    "torch_generator": "seeds",
    "ActivationBatch": "types",
    "Features": "types",
    "SAEOutput": "types",
    "Sites": "types",
    "TokenBatch": "types",
    "WindowBatch": "types",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = [
    "ALONE",
    "ActivationBatch",
    "Estimate",
    "Features",
    "Permutation",
    "Ranks",
    "SAEOutput",
    "Schedule",
    "Sites",
    "TokenBatch",
    "UserError",
    "WindowBatch",
    "atomic_path",
    "derive_seed",
    "file_sha256",
    "nearest",
    "torch_generator",
    "write_json",
]

"""What every room shares: batch types, seeds, schedules, errors and atomic files. Imports nothing above."""

from sae_lightning.core.errors import UserError, nearest
from sae_lightning.core.files import atomic_path, file_sha256, write_json
from sae_lightning.core.permutation import Permutation
from sae_lightning.core.schedules import Schedule
from sae_lightning.core.seeds import derive_seed, torch_generator
from sae_lightning.core.types import ActivationBatch, Features, SAEOutput, Sites, TokenBatch

__all__ = [
    "ActivationBatch",
    "Features",
    "Permutation",
    "SAEOutput",
    "Schedule",
    "Sites",
    "TokenBatch",
    "UserError",
    "atomic_path",
    "derive_seed",
    "file_sha256",
    "nearest",
    "torch_generator",
    "write_json",
]

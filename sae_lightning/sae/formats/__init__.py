"""SAEs in other libraries' files: SAELens, sparsify, dictionary_learning, beside this package's own.

Reading fills an SAE of this package exactly; writing converts what is equal by algebra and refuses the rest by name.
"""

from sae_lightning.sae.formats.agreement import TOLERANCE, Agreement, agreement, probe_rows
from sae_lightning.sae.formats.base import Format
from sae_lightning.sae.formats.registry import get, names, read, write

__all__ = [
    "TOLERANCE",
    "Agreement",
    "Format",
    "agreement",
    "get",
    "names",
    "probe_rows",
    "read",
    "write",
]

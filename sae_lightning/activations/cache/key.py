"""What a cache holds, as a key, and where it lies: the key's hash."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lightning.lm.reader import READING
from sae_lightning.tokens.sample import SAMPLE_ORDER
from sae_lightning.tokens.wheels import cache_dir

if TYPE_CHECKING:
    from sae_lightning.lm import FrozenLM
    from sae_lightning.tokens import WindowSample

FORMAT = 1


def default_root() -> Path:
    """Return the folder of all caches: ``activations`` in the package's cache folder."""
    return cache_dir() / "activations"


def cache_key(lm: "FrozenLM", windows: "WindowSample", site: str, micro_batch: int) -> dict[str, Any]:
    """Return everything that decides the bytes of a cache: weights, text, its cut and order, site, dtype.

    The size of the sample is not part of it, so that a cache serves every smaller run and grows for a larger one; nor
    is the mask, which is applied when rows are read. ``micro_batch`` is: the height of the LM's matrix products
    decides how they round; so do the kind of device and the way the LM is read.
    """
    identity = lm.identity()
    return {
        "format": FORMAT,
        "weights": identity["sha256"],
        "tokenizer": identity["tokenizer_hash"],
        "windows": windows.base.identity(),
        "order": SAMPLE_ORDER,
        "context_length": windows.context_length,
        "site": site,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "micro_batch": micro_batch,
        "device": lm.device.type,
        "reading": READING,
    }


def address(key: dict[str, Any]) -> str:
    """Return the name of the folder of a key: 24 hexadecimal digits."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def build_lock(root: Path) -> Path:
    """Return the lock that is held by whoever writes to a root or removes from it."""
    return root / ".build.lock"

"""Where an SAE came from, carried through other libraries' files and read back in this package's own form."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lightning.core import file_sha256
from sae_lightning.sae.base import SparseAutoencoder

KEY = "sae_lightning"
_PATH = re.compile(r"^(?:/|~|[A-Za-z]:\\).*?([^/\\]+)[/\\]?$")


def stamp(sae: SparseAutoencoder, weights: Path) -> dict[str, Any]:
    """Return what a foreign config keeps of us: architecture, options, metadata, and whose weights it speaks of."""
    return {
        "architecture": sae.name,
        "options": sae.options(),
        "weights_sha256": file_sha256(weights),
        "metadata": without_paths(sae.metadata),
    }


def without_paths(value: Any) -> Any:
    """Return plain values with absolute paths cut down to their last part: they say things of a machine."""
    if isinstance(value, Mapping):
        return {str(key): without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and (found := _PATH.match(value)):
        return found[1]
    return value


def metadata(form: str, version: str | None, stated: Mapping[str, Any], stamped: Any, weights: Path) -> dict[str, Any]:
    """Return the metadata of an SAE that was read.

    stated: what the file says in its own keys (sites, lm, mask, data). stamped: what ``stamp`` wrote, believed only for
    the weights it was written with: what was measured on others is not true of these.
    """
    base: dict[str, Any] = {"sites": None, "lm": None, "mask": None, "data": None}
    ours = isinstance(stamped, dict) and isinstance(stamped.get("metadata"), dict)
    if ours and stamped.get("weights_sha256") == file_sha256(weights):
        base |= json.loads(json.dumps(stamped["metadata"]))
    for key, value in stated.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict) and _same_name(base[key], value):
            base[key] = {**base[key], **{k: v for k, v in value.items() if v is not None}}
        elif value is not None:
            base[key] = value
    return {**base, "source": {"format": form, "version": version}}


def _same_name(kept: Mapping[str, Any], stated: Mapping[str, Any]) -> bool:
    return "name" not in stated or kept.get("name") == stated["name"]


def language_model(name: Any, revision: Any = None) -> dict[str, Any] | None:
    """Return the metadata of a language model of which a file says the name alone."""
    if not isinstance(name, str) or not name:
        return None
    return {"name": name, "revision": revision, "sha256": None, "tokenizer_hash": None}


def sites(read: Any, write: Any = None) -> dict[str, list[str]] | None:
    """Return the metadata of one site to read and one to write (default: the same); None where the first is unknown."""
    if not isinstance(read, str) or not read:
        return None
    return {"read": [read], "write": [write if isinstance(write, str) and write else read]}

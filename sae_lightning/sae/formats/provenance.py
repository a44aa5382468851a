"""Where an SAE came from, carried through other libraries' files and read back in this package's own form."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lightning.core import file_sha256
from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.metadata import check_metadata

logger = logging.getLogger(__name__)

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


def metadata(
    form: str,
    version: str | None,
    stated: Mapping[str, Any],
    stamped: Any,
    weights: Path,
    guessed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the metadata of an SAE that was read.

    stamped: what ``stamp`` wrote, believed only for the weights it was written with (what was measured on others is not
    true of these), and then before anything else. stated: what the file says in its own keys (sites, lm, mask, data):
    it fills what no stamp says. guessed: what to take, of weights without a stamp, for keys that nothing states.
    Raises UserError for a stamp whose metadata is not of our form.
    """
    base: dict[str, Any] = {"sites": None, "lm": None, "mask": None, "data": None}
    said = {key: value for key, value in stated.items() if value is not None}
    ours = isinstance(stamped, dict) and isinstance(stamped.get("metadata"), dict)
    if ours and stamped.get("weights_sha256") == file_sha256(weights):
        kept = json.loads(json.dumps(stamped["metadata"]))
        check_metadata(kept, f"{weights.parent}: {KEY}", "write it again")
        if kept.get("sites") and said.get("sites", kept["sites"]) != kept["sites"]:
            logger.warning("%s: says sites %s, but was written for %s", weights.parent, said["sites"], kept["sites"])
        base |= said | {key: value for key, value in kept.items() if value is not None}
    else:
        base |= {**(guessed or {}), **said}
    return {**base, "source": {"format": form, "version": version}}


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


def data(context_length: Any, dataset: Any = None) -> dict[str, Any]:
    """Return the metadata of a text of which a file says the context length and the name."""
    whole = isinstance(context_length, int) and not isinstance(context_length, bool) and context_length > 0
    return {
        "context_length": context_length if whole else None,
        "dataset": dataset if isinstance(dataset, str) and dataset else None,
    }

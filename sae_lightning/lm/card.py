"""What is known of a language model without loading it, remembered from the last time it was loaded."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sae_lightning.core import write_json
from sae_lightning.tokens.wheels import cache_dir

logger = logging.getLogger(__name__)

_FORMAT = 1
_FILES = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model")


@dataclass(frozen=True)
class LMCard:
    """Identity and sizes of a ``FrozenLM``: all that a run on kept activations needs of it.

    widths: elements a token of the sites that were asked for so far. n_bytes: memory of the weights.
    """

    name: str
    revision: str | None
    sha256: str
    tokenizer_hash: str
    d_model: int
    n_layers: int
    n_ctx: int
    vocab_size: int
    separator_id: int | None
    bos_id: int | None
    special_ids: tuple[int, ...]
    n_bytes: int
    widths: dict[str, int] = field(default_factory=dict)


def card_path(request: dict[str, Any], folder: Path | None) -> Path:
    """Return where the card of a request lies. folder: of weights and tokenizer, None for a model made from a seed.

    The name covers the request and, for a folder, each file's name, size and time of change: other weights under the
    same name are another card.
    """
    files = []
    if folder is not None:
        for path in sorted({p for pattern in _FILES for p in folder.glob(pattern)}):
            stat = path.stat()
            files.append([path.name, stat.st_size, stat.st_mtime_ns])
    key = json.dumps([_FORMAT, request, str(folder and folder.resolve()), files], sort_keys=True)
    return cache_dir() / "lm" / "cards" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def read_card(path: Path) -> LMCard | None:
    """Return the card at ``path``, or None where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return LMCard(**{**value, "special_ids": tuple(value["special_ids"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        logger.warning("%s: cannot be read, loading the language model instead", path)
        return None


def write_card(path: Path, card: LMCard) -> None:
    """Remember a card; a cache that cannot be written costs time, not the run."""
    try:
        write_json(path, {**asdict(card), "special_ids": list(card.special_ids)})
    except OSError as error:
        logger.warning("%s: cannot be written (%s)", path, error.strerror)

"""The tokenizer of a language model without its weights, for making token files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sae_lightning.core import UserError
from sae_lightning.lm.embedded import smollm2_folder
from sae_lightning.lm.hub import model_folder, read_tokenizer
from sae_lightning.lm.tiny import BYTE_VOCABULARY
from sae_lightning.tokens import byte_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(name: str, *, revision: str | None = None) -> "tuple[PreTrainedTokenizerBase, int]":
    """Return the tokenizer of ``FrozenLM.load(name)`` and the number of ids that the model knows.

    Raises UserError as FrozenLM.load does, and for a config.json without a vocabulary size.
    """
    if name == "tiny":
        return byte_tokenizer(), BYTE_VOCABULARY
    folder = smollm2_folder() if name == "smollm2" else model_folder(name, revision)[0]
    return read_tokenizer(folder, name), _vocab_size(folder, name)


def _vocab_size(folder: Path, name: str) -> int:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    if not isinstance(size, int):
        raise UserError(f"lm.name={name!r}: its config.json gives no vocab_size; fetch the model again")
    return size

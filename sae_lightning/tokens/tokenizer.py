"""Small things about tokenizers: what identifies one, and one of plain bytes that needs no download."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

from sae_lightning.core import TokenBatch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the SHA-256 of what decides the ids: the serialised tokenizer without its padding and truncation state.

    Those two change whenever somebody calls the tokenizer with padding, so they must not change its identity.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        value: Any = json.loads(backend.to_str())
        value["padding"] = value["truncation"] = None
    else:
        value = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def byte_tokenizer() -> "PreTrainedTokenizerFast":
    """Return a tokenizer built in memory whose ids 0..255 are the bytes of UTF-8 and 256 is ``<|endoftext|>``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {character: byte for byte, character in _byte_characters().items()}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end, pad_token=end)


def _byte_characters() -> dict[int, str]:
    """The printable character that byte-level tokenizers write for each byte (GPT-2's table).

    Printable Latin-1 bytes stand for themselves, the others are moved, in order, to 256 and above.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(moved)}


def decode_window(tokenizer: "PreTrainedTokenizerBase", batch: TokenBatch, row: int = 0) -> str:
    """Return the text of one window: padding left out, separators and BOS shown as the tokenizer writes them."""
    ids = batch.tokens[row][batch.mask[row]].tolist()
    return str(tokenizer.decode(ids))

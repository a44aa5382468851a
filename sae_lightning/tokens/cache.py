"""Every text is tokenised once: the result lies in the cache under what it was made of."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sae_lightning.tokens.corpus import TextSource
from sae_lightning.tokens.manifest import FORMAT
from sae_lightning.tokens.store import TokenStore
from sae_lightning.tokens.wheels import cache_dir
from sae_lightning.tokens.writer import write_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenized_store(
    source: TextSource,
    tokenizer: "Callable[[], PreTrainedTokenizerBase]",
    tokenizer_name: str,
    *,
    vocab_size: int,
    max_tokens: int | None = None,
    cache: Path | None = None,
) -> TokenStore:
    """Return ``source`` as a token store, tokenising it into ``cache`` (default ``cache_dir()``) the first time.

    The place is ``tokens/HASH/tokens.bin``, HASH over the source's identity, the tokenizer and the options. Several
    processes may ask at once: one writes under a lock, the others wait and read. UserErrors as ``write_tokens``.
    tokenizer: called only where there is something to tokenise. tokenizer_name: its ``tokenizer_hash``.
    """
    parts = [FORMAT, source.identity(), tokenizer_name, vocab_size, max_tokens]
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    out = (cache or cache_dir()) / "tokens" / name / "tokens.bin"
    if out.exists():
        return TokenStore.open(out)
    return write_tokens(source, tokenizer(), out, vocab_size=vocab_size, max_tokens=max_tokens)

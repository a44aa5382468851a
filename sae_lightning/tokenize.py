"""Make a binary token file from any text: ``python -m sae_lightning.tokenize data=text data.path=corpus/ out=FILE``."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from sae_lightning import command
from sae_lightning.config import TokenizeConfig, validate
from sae_lightning.core.errors import UserError

logger = logging.getLogger("sae_lightning.tokenize")


def task(composed: DictConfig) -> None:
    """Tokenise the source of a config into ``out`` and report what is in it."""
    config = validate(command.plain(composed), TokenizeConfig)
    if config.data.kind != "text" or config.lm is None:
        raise UserError("data: only text can be tokenised; use data=news, data=text or data=hf, and an lm=")
    command.set_up_logging()
    command.quiet_warnings()
    from sae_lightning.build import make
    from sae_lightning.lm import load_tokenizer
    from sae_lightning.tokens import write_tokens

    tokenizer, vocab_size = load_tokenizer(config.lm.name, revision=config.lm.revision)
    source = make(config.data.source or {}, "data.source")
    out = Path(config.out).expanduser()
    separator = "auto" if config.separator is None else config.separator
    limit = None if config.data.max_tokens == "auto" else config.data.max_tokens
    store = write_tokens(
        source,
        tokenizer,
        out,
        vocab_size=vocab_size,
        workers=config.workers,
        max_tokens=limit,
        separator=separator,
    )
    manifest = store.manifest
    assert manifest is not None
    command.say(
        f"{out}: {manifest.documents:,} documents, {manifest.tokens:,} tokens, {manifest.dtype}, "
        f"separator {manifest.separator}"
    )


if __name__ == "__main__":
    command.main("tokenize", task)

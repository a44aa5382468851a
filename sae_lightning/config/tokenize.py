"""The config of making a token file."""

from sae_lightning.config.sections import Count, CountOrZero, DataConfig, LMConfig, Section


class TokenizeConfig(Section):
    """What python -m sae_lightning.tokenize does: text of ``data`` through the tokenizer of ``lm`` into ``out``."""

    out: str
    workers: Count | None = None
    separator: CountOrZero | None = None
    lm: LMConfig | None = None
    data: DataConfig

"""The config of an evaluation."""

from typing import Annotated

from annotated_types import Ge, Le, MinLen
from pydantic import BeforeValidator, model_validator

from sae_lightning.config.sections import Count, DataConfig, LMConfig, Node, Section, TunedConfig
from sae_lightning.validation import whole


class SitesOfSAE(Section):
    """Hook names that an SAE reads and writes, where it does not say; ``write`` null: the same.

    tuned: the second language model of an SAE of two, in place of the one it names.
    """

    read: Annotated[list[str], MinLen(1)] | None = None
    write: Annotated[list[str], MinLen(1)] | None = None
    tuned: TunedConfig = TunedConfig()


class ReadsSAE(Section):
    """What a command that reads an SAE on data takes; lm, data and sites default to what the SAE says of its origin."""

    lm: LMConfig | None = None
    data: DataConfig | None = None
    sites: SitesOfSAE = SitesOfSAE()
    any_lm: bool = False
    device: str = "auto"
    progress: bool = True


class EvaluateConfig(ReadsSAE):
    """What python -m sae_lightning.evaluate measures: SAEs, on held-out data, by studies."""

    sae: Annotated[str, MinLen(1)] | Annotated[list[Annotated[str, MinLen(1)]], MinLen(1)]
    out: Annotated[str, MinLen(1)] | None = None
    tokens: Count = 32768
    seed: Annotated[int, BeforeValidator(whole), Ge(0), Le(2**32 - 1)] = 0
    draws: Annotated[int, BeforeValidator(whole), Ge(100), Le(100_000)] = 1000
    processes: Annotated[int, BeforeValidator(whole), Ge(1), Le(256)] = 1
    studies: dict[str, Node | None]

    @property
    def paths(self) -> list[str]:
        """The SAEs' paths."""
        return [self.sae] if isinstance(self.sae, str) else self.sae

    @model_validator(mode="after")
    def _rules(self) -> "EvaluateConfig":
        if self.data is not None and self.data.kind in ("activations", "synthetic") and self.lm is not None:
            raise ValueError(f"lm={self.lm.name}: data of kind {self.data.kind} need no language model; leave lm out")
        if self.data is not None and self.data.kind in ("tokens", "activations") and not self.data.path:
            raise ValueError("data.path: is needed; set data.path=... to a file")
        return self

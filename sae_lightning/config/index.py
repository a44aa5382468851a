"""The config of a feature store's making."""

from typing import Annotated, Literal

from annotated_types import MinLen
from pydantic import model_validator

from sae_lightning.config.evaluate import ReadsSAE
from sae_lightning.config.sections import Count


class IndexConfig(ReadsSAE):
    """What python -m sae_lightning.index reads through a language model and an SAE into a store.

    tokens: positions of windows that are read, from the first on. split: which documents; all of them by default, for
    a store is read and not scored.
    """

    sae: Annotated[str, MinLen(1)]
    store: Annotated[str, MinLen(1)]
    tokens: Count = 1_000_000
    split: Literal["all", "train", "heldout"] = "all"
    overwrite: bool = False
    parquet: Annotated[str, MinLen(1)] | None = None

    @model_validator(mode="after")
    def _rules(self) -> "IndexConfig":
        if self.data is not None and self.data.kind in ("activations", "synthetic"):
            raise ValueError(f"data: of kind {self.data.kind} have no text to look features up in; give data=text")
        if self.data is not None and self.data.kind == "tokens" and not self.data.path:
            raise ValueError("data.path: is needed; set data.path=... to a file")
        return self

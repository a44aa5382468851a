"""What commands take that ask about the features of one SAE, with a feature store or without."""

from typing import Annotated

from annotated_types import MinLen
from pydantic import model_validator

from sae_lightning.config.evaluate import ReadsSAE


class AsksSAE(ReadsSAE):
    """An SAE, a feature store of it, or both; with a store, lm, data and sites are those it was made with.

    sae: with a store, where the store's SAE lies now (null: where it lay). verify: compare the store's arrays with
    their checksums first.
    """

    sae: Annotated[str, MinLen(1)] | None = None
    store: Annotated[str, MinLen(1)] | None = None
    verify: bool = False

    @model_validator(mode="after")
    def _which(self) -> "AsksSAE":
        if self.sae is None and self.store is None:
            raise ValueError("sae: is needed, or a feature store of it; set sae=... or store=...")
        if self.store is not None:
            given = {"lm": self.lm, "data": self.data, "sites.read": self.sites.read, "sites.write": self.sites.write}
            for name, value in given.items():
                if value is not None:
                    raise ValueError(f"{name}: store={self.store} says what it was made with; leave {name} out")
        if self.data is not None and self.data.kind in ("activations", "synthetic"):
            raise ValueError(f"data: of kind {self.data.kind} have no text; give data=text")
        if self.data is not None and self.data.kind == "tokens" and not self.data.path:
            raise ValueError("data.path: is needed; set data.path=... to a file")
        return self

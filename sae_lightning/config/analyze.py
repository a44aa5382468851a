"""The config of an analysis."""

from typing import Annotated

from annotated_types import Ge, Le, MinLen
from pydantic import BeforeValidator, Field

from sae_lightning.config.sections import Count, CountOrZero, Node, Section
from sae_lightning.core.errors import UserError
from sae_lightning.validation import whole

Name = Annotated[str, MinLen(1)]


class AnalyzeConfig(Section):
    """What python -m sae_lightning.analyze asks of a feature store, or of several side by side.

    sae: where the SAE lies now, of each store; null: where it lay when the store was made. evaluation_tokens: held-out
    tokens that the evaluation is on, 0 for none. notes, explanations: a file of notes on features and one of what they
    are said to mean, of each store. examples: strongest ones shown of a feature.
    """

    store: Name | Annotated[list[Name], MinLen(1)]
    out: Name | None = None
    sae: Name | list[Name | None] | None = None
    notes: Name | list[Name | None] | None = None
    explanations: Name | list[Name | None] | None = None
    report: bool = True
    verify: bool = True
    evaluation_tokens: CountOrZero = 8192
    draws: Annotated[int, BeforeValidator(whole), Ge(100), Le(100_000)] = 1000
    seed: Annotated[int, BeforeValidator(whole), Ge(0), Le(2**32 - 1)] = 0
    examples: Count = 16
    device: str = "auto"
    progress: bool = True
    studies: Annotated[dict[str, Node | None], Field(default_factory=dict)]

    @property
    def stores(self) -> list[str]:
        """The stores' paths."""
        return [self.store] if isinstance(self.store, str) else self.store

    def of_each(self, values: str | list[str | None] | None, key: str) -> list[str | None]:
        """Return a setting's value for every store, None where it is not set. Raises UserError for too many or few."""
        if values is None:
            return [None] * len(self.stores)
        values = [values] if isinstance(values, str) else values
        if len(values) != len(self.stores):
            raise UserError(f"{key}={values}: needs one for each of the {len(self.stores)} stores; give as many")
        return list(values)

"""The config of an interpretation."""

from typing import Annotated

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BeforeValidator, Field, model_validator

from sae_lightning.config.asking import AsksSAE
from sae_lightning.config.sections import Count, CountOrZero, Node, Section
from sae_lightning.validation import whole


class RecordConfig(Section):
    """How much is recorded of a unit; see ``studies.autointerp.recording.Recipe``."""

    context: Annotated[int, BeforeValidator(whole), Ge(4)] = 32
    top: Count = 8
    from_level: CountOrZero = 1
    levels: Count = 5
    held: Count = 2
    silent: Count = 10
    near: bool = False


class InterpretConfig(AsksSAE):
    """What python -m sae_lightning.interpret asks of the features of a store, with neurons as the control.

    features: numbers; null: ``n_features`` drawn evenly from those that are active on ``min_firings`` of the tokens.
    neurons: the site of a layer's neurons. neuron_share: of the tokens, on which a neuron counts as active; null: as
    many as the features' median. client: who is asked; null where explainer and scorers ask nobody.
    """

    out: Annotated[str, MinLen(1)] | None = None
    tokens: Count = 262144
    features: Annotated[list[CountOrZero], MinLen(1)] | None = None
    n_features: CountOrZero = 50
    min_firings: Count = 100
    n_neurons: CountOrZero = 50
    neurons: Annotated[str, MinLen(1)] = "blocks.{layer}.mlp.hook_post"
    neuron_share: Annotated[float, Gt(0), Le(1)] | None = None
    record: RecordConfig = RecordConfig()
    explainer: Node
    scorer: Annotated[dict[str, Node | None], Field(default_factory=dict)]
    client: Node | None = None
    draws: Annotated[int, BeforeValidator(whole), Ge(100), Le(100_000)] = 1000
    seed: Annotated[int, BeforeValidator(whole), Ge(0), Le(2**32 - 1)] = 0

    @model_validator(mode="after")
    def _rules(self) -> "InterpretConfig":
        if self.store is None:
            raise ValueError("store: is needed, what units are active on is read from it; set store=...")
        if self.features is not None and len(set(self.features)) < len(self.features):
            twice = next(one for one in self.features if self.features.count(one) > 1)
            raise ValueError(f"features: names {twice} more than once; give each once")
        if self.features is None and self.n_features + self.n_neurons == 0:
            raise ValueError("n_features=0, n_neurons=0: nothing is left to interpret; raise one of them")
        return self

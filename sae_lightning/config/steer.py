"""The config of steering."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AllowInfNan, BeforeValidator, Strict, model_validator

from sae_lightning.config.asking import AsksSAE
from sae_lightning.config.search import Path, Texts
from sae_lightning.config.sections import Count
from sae_lightning.validation import whole


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) or value is None else [value]


# A strength: a number, or a factor of the feature's maximum, 10x. What it may be is for the edit to say.
Strengths = dict[int, Annotated[float, Strict(), AllowInfNan(True)] | str]
Feature = Annotated[int, BeforeValidator(whole), Ge(0)]
Finite = Annotated[float, AllowInfNan(False)]
Words = Annotated[list[Annotated[str, MinLen(1)]], BeforeValidator(_as_list)]

#: Kinds of edits, by the names of their settings.
EDITS: tuple[Literal["clamp", "add", "scale"], ...] = ("clamp", "add", "scale")
#: Settings that go with ``dose`` alone.
_OF_DOSE = ("features", "concept", "mode")


class SteerConfig(AsksSAE):
    """What python -m sae_lightning.steer does: edits of features, or a dose-response of some.

    clamp, add, scale: feature -> strength. prompt, prompt_file: what is gone on with; one of them. n: texts of each.
    positions: all, prompt, generated, or numbers of the prompt's tokens. reconstruct: also go on with the
    reconstruction in place of the activations. dose: strengths, as factors of each feature's maximum on the store; for
    ``features``, in ``mode``. concept: words of the concept, for all features or by feature.
    """

    prompt: Texts | None = None
    prompt_file: Path | None = None
    clamp: Strengths | None = None
    add: Strengths | None = None
    scale: Strengths | None = None
    keep_error: bool = True
    positions: str | list[Annotated[int, BeforeValidator(whole)]] = "all"
    reconstruct: bool = False
    n: Count = 3
    max_tokens: Count = 60
    temperature: Annotated[float, AllowInfNan(False), Ge(0)] = 1.0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    cached: bool = True
    seed: Annotated[int, BeforeValidator(whole), Ge(0), Le(2**32 - 1)] = 0
    dose: Annotated[list[Finite], MinLen(1)] | None = None
    features: Annotated[list[Feature], BeforeValidator(_as_list), MinLen(1)] | None = None
    mode: Literal["clamp", "add", "scale"] = "clamp"
    concept: Words | dict[int, Words] | None = None
    draws: Annotated[int, BeforeValidator(whole), Ge(100), Le(100_000)] = 1000
    explanations: Path | None = None
    out: Path | None = None

    @model_validator(mode="after")
    def _what(self) -> "SteerConfig":
        edited = [name for name in EDITS if getattr(self, name)]
        if self.prompt is not None and self.prompt_file is not None:
            raise ValueError("prompt_file: prompt=... is given too; give one of both")
        if self.dose is None:
            for name in _OF_DOSE:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name}: goes with dose=[...]; leave it out")
            if self.prompt is None and self.prompt_file is None:
                raise ValueError("prompt: is needed; set prompt=... or prompt_file=...")
            if not edited and not self.reconstruct:
                raise ValueError(
                    "clamp, add, scale: nothing is steered; give clamp={FEATURE:10x} or the like, or reconstruct=true"
                )
            return self
        if edited or self.reconstruct:
            raise ValueError(f"{(edited or ['reconstruct'])[0]}: does not go with dose=[...]; leave one of them out")
        if self.features is None:
            raise ValueError("features: is needed by dose=[...]; set features=[NUMBER,...]")
        if self.store is None:
            raise ValueError("store: is needed by dose=[...], whose strengths are factors of a maximum; set store=...")
        return self

    @model_validator(mode="after")
    def _each_once(self) -> "SteerConfig":
        named = [feature for name in EDITS for feature in getattr(self, name) or {}]
        for feature in dict.fromkeys(named):
            if named.count(feature) > 1:
                raise ValueError(f"feature {feature}: is edited twice; give it one of {', '.join(EDITS)}")
        if self.features is not None and len(set(self.features)) < len(self.features):
            raise ValueError(f"features={self.features}: names one twice; give each once")
        return self

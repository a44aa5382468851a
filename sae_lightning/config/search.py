"""The config of a search for features."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import AllowInfNan, BeforeValidator, model_validator

from sae_lightning.config.asking import AsksSAE
from sae_lightning.config.sections import Count
from sae_lightning.validation import whole


def _as_text(value: Any) -> Any:
    """Read what the command line takes for a whole number as the text it was; other kinds have lost their letters."""
    if isinstance(value, bool | float):
        raise ValueError(f"must be a text; put it in quotes twice, '\"{value}\"'")
    return str(value) if isinstance(value, int) else value


def _as_feature(value: Any) -> Any:
    if isinstance(value, bool | float):
        raise ValueError("must be a feature's number or a .npy file")
    return value


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) or value is None else [value]


Text = Annotated[str, BeforeValidator(_as_text), MinLen(1)]
Texts = Annotated[list[Text], BeforeValidator(_as_list), MinLen(1)]
Path = Annotated[str, MinLen(1)]

#: The settings that say what is looked for, and those that go with each.
WAYS: dict[str, tuple[str, ...]] = {
    "prompt": ("token", "background_tokens"),
    "all": ("none", "none_file", "threshold", "background_tokens"),
    "near": ("to",),
    "attribute": ("target", "against", "keep_error", "space", "float32", "seed"),
    "influence": ("want", "strength", "candidates", "space", "float32", "seed", "background_tokens"),
    "concept": (),
}


class SearchConfig(AsksSAE):
    """What python -m sae_lightning.search looks for: one of ``WAYS``; ``all`` may be ``all_file``.

    all_file, none_file: a text file, one prompt a line, or jsonl with a text in each. near: a feature, or a .npy file
    with a vector. to: more SAEs. explanations: what interpret wrote. report: the folder that analyze wrote.
    background_tokens: read for base rates where there is no store.
    """

    prompt: Text | None = None
    token: Literal["last", "max", "mean"] = "last"
    all: Texts | None = None
    all_file: Path | None = None
    none: Texts | None = None
    none_file: Path | None = None
    threshold: Annotated[float, Ge(0), Le(1)] = 0.0
    near: Annotated[Annotated[int, Ge(0)] | Path | None, BeforeValidator(_as_feature)] = None
    to: Annotated[list[Path], BeforeValidator(_as_list), MinLen(1)] | None = None
    attribute: Text | None = None
    target: Text | None = None
    against: Text | None = None
    keep_error: bool = True
    influence: Text | None = None
    want: Text | None = None
    strength: Annotated[float, AllowInfNan(False)] = 1.0
    candidates: Count = 100
    concept: Text | None = None
    n: Count = 20
    space: bool = True
    float32: bool = True
    explanations: Path | None = None
    report: Path | None = None
    out: Path | None = None
    background_tokens: Count = 65536
    seed: Annotated[int, BeforeValidator(whole), Ge(0), Le(2**32 - 1)] = 0

    @property
    def way(self) -> str:
        """What is looked for, by the name of its setting."""
        return "all" if self.all_file is not None else next(way for way in WAYS if getattr(self, way) is not None)

    @model_validator(mode="after")
    def _one_way(self) -> "SearchConfig":
        ways = [way for way in WAYS if getattr(self, way) is not None or (way == "all" and self.all_file is not None)]
        if len(ways) != 1:
            said = " and ".join(f"{way}=..." for way in ways) or "nothing to look for"
            raise ValueError(f"{said}: needs exactly one way of searching; give one of {', '.join(WAYS)}")
        for name in dict.fromkeys(name for settings in WAYS.values() for name in settings):
            if name in WAYS[ways[0]] or getattr(self, name) == type(self).model_fields[name].default:
                continue
            goes = " and ".join(f"{way}=..." for way, settings in WAYS.items() if name in settings)
            raise ValueError(f"{name}: goes with {goes}, not with {ways[0]}=...; leave it out")
        if self.store is not None and self.background_tokens != type(self).model_fields["background_tokens"].default:
            raise ValueError(f"background_tokens: store={self.store} has the base rates; leave it out")
        for name, other in (("attribute", "target"), ("influence", "want"), ("concept", "explanations")):
            if getattr(self, name) is not None and getattr(self, other) is None:
                raise ValueError(f"{other}: is needed by {name}=...; set {other}=...")
        for name in ("all", "none"):
            if getattr(self, name) is not None and getattr(self, f"{name}_file") is not None:
                raise ValueError(f"{name}_file: {name}=[...] is given too; give one of both")
        return self

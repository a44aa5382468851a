"""What is done to one feature: its activation is set, moved or multiplied."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import UserError

if TYPE_CHECKING:
    from sae_lightning.store import FeatureStore

logger = logging.getLogger(__name__)

Kind = Literal["clamp", "add", "scale"]
#: Beyond so many times a feature's maximum nothing is known of what the language model makes of it.
MOST = 10.0
# Activations are float32; comparing with it also tells NaN.
_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class TimesMax:
    """A strength as a factor of the feature's largest activation on a store."""

    factor: float

    def __str__(self) -> str:
        return f"{self.factor:g}x"


@dataclass(frozen=True)
class FeatureEdit:
    """``f' = value`` (clamp), ``f + value`` (add) or ``f value`` (scale), f the feature's activation.

    clamp and add act on every token, scale on those alone where the feature is active. strength: a number in the
    units of the feature's activations, or a factor of its maximum, which ``resolve`` turns into a number.
    Raises UserError for a strength that is not a finite number.
    """

    kind: Kind
    strength: float | TimesMax

    def __post_init__(self) -> None:
        value = self.strength.factor if isinstance(self.strength, TimesMax) else self.strength
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
            raise UserError(f"{self.kind} strength {value}: must be a finite number; for example {self.kind}(2.5)")
        if self.kind == "scale" and isinstance(self.strength, TimesMax):
            raise UserError(f"scale {self.strength}: is a factor of the activation itself; give a number without x")

    @property
    def value(self) -> float:
        """The strength as a number. Raises UserError for a factor of a maximum that nobody looked up."""
        if isinstance(self.strength, TimesMax):
            raise UserError(
                f"{self}: is a factor of the feature's maximum on a store; resolve it with one, or give a number"
            )
        return float(self.strength)

    def applied(self, f: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Return f' for activations f; exactly f where the edit changes nothing."""
        if self.kind == "clamp":
            return torch.full_like(f, self.value)
        return f + self.value if self.kind == "add" else f * self.value

    def resolved(self, largest: float) -> "FeatureEdit":
        """Return the edit with its strength as a number. largest: the feature's maximum."""
        if not isinstance(self.strength, TimesMax):
            return self
        return replace(self, strength=self.strength.factor * largest)

    def __str__(self) -> str:
        said = str(self.strength) if isinstance(self.strength, TimesMax) else f"{self.strength:g}"
        return f"{self.kind} {said}"


def times_max(factor: float | str) -> TimesMax:
    """Return a strength that is a factor of the feature's maximum: ``10``, ``"10x"`` or ``"-2.5x"``."""
    if isinstance(factor, str):
        try:
            factor = float(factor.strip().lower().removesuffix("x"))
        except ValueError:
            raise UserError(f"strength {factor!r}: must be a factor such as 10x or -2.5x") from None
    return TimesMax(factor)


def clamp(value: float | str | TimesMax) -> FeatureEdit:
    """Set the activation to ``value``; ``"10x"``: to ten times the feature's maximum."""
    return FeatureEdit("clamp", _strength(value))


def add(value: float | str | TimesMax) -> FeatureEdit:
    """Add ``value`` to the activation; ``"10x"``: ten times the feature's maximum."""
    return FeatureEdit("add", _strength(value))


def scale(factor: float) -> FeatureEdit:
    """Multiply the activation by ``factor``: 0 takes the feature out, 1 leaves it."""
    return FeatureEdit("scale", _strength(factor))


def resolve(edits: Mapping[int, FeatureEdit], store: "FeatureStore | None") -> dict[int, FeatureEdit]:
    """Return the edits with every strength a number; factors are of the feature's largest |activation| on ``store``.

    Says so, in a log line, where a strength is beyond ten times that. Raises UserError for a factor without a store,
    and for one of a feature that never fires there.
    """
    out = {}
    for feature, edit in edits.items():
        factor = isinstance(edit.strength, TimesMax)
        if store is None:
            if factor:
                raise UserError(f"feature {feature}, {edit}: is a factor of its maximum on a store; give store=...")
            out[feature] = edit
            continue
        largest = float(store.stats.largest[store.check_feature(feature)])
        if factor and largest == 0:
            raise UserError(f"feature {feature}, {edit}: it never fires on the store; give a number without x")
        out[feature] = edit.resolved(largest)
        if edit.kind != "scale" and abs(out[feature].value) > MOST * largest * (1 + 1e-6):
            logger.warning(
                "feature %d: %s is beyond %g times its maximum on the store, %.4g", feature, edit, MOST, largest
            )
    return out


def _strength(value: float | str | TimesMax) -> float | TimesMax:
    if not isinstance(value, str):
        return value
    if value.strip().lower().endswith("x"):
        return times_max(value)
    try:
        return float(value)
    except ValueError:
        raise UserError(f"strength {value!r}: must be a number such as 2.5, or a factor such as 10x") from None

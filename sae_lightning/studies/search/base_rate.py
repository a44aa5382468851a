"""How often a feature is as active as that: what an activation is worth, set against the text at large."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from sae_lightning.core import UserError
from sae_lightning.store import FeatureStore
from sae_lightning.studies.passes import read_unit
from sae_lightning.studies.progress import track
from sae_lightning.studies.subject import Subject, inference

# Up to so many activations a column is compared with each of them; sorting it is faster for more.
_FEW = 8


@dataclass(frozen=True)
class BaseRate:
    """Each feature's activations on n tokens of a text at large, of which only those above 0 are kept.

    count, largest [d_sae]: on how many tokens it is active, and its largest |activation|. column: gives a feature's
    activations, those above 0, in any order. Strength is |activation| throughout (AbsTopK has negative ones).
    """

    n: int
    count: Int[NDArray, "d_sae"]
    largest: Float[NDArray, "d_sae"]
    column: Callable[[int], NDArray[np.float32]]

    def tail(self, feature: int, values: Float[NDArray, "m"]) -> Float[NDArray, "m"]:
        """Return how likely so strong an activation is on a token at large: ``(1 + #{|f_i| >= |a|}) / (1 + n)``.

        1 where a is 0. The 1 on top keeps an activation that was never seen from counting as impossible (the smoothed
        p-value of a rank test: Davison and Hinkley 1997, section 4.2).
        """
        asked, strength = np.abs(values), np.abs(self.column(feature))
        if len(asked) <= _FEW:
            above = np.array([np.count_nonzero(strength >= a) for a in asked], np.int64)
        else:
            above = len(strength) - np.searchsorted(np.sort(strength), asked, side="left")
        return np.where(asked > 0, (1.0 + above) / (1.0 + self.n), 1.0)

    def share(self, feature: int, value: float) -> float:
        """Return |value| as a share of the feature's largest activation; 0 for one that never fires."""
        largest = float(self.largest[feature])
        return abs(value) / largest if largest > 0 else 0.0

    def density(self, feature: int) -> float:
        """Return the share of tokens on which the feature is active."""
        return float(self.count[feature]) / self.n


def of_longest(tail: Float[NDArray, "m"], tokens: int | NDArray) -> Float[NDArray, "m"]:
    """Return how likely the largest of so many independent tokens is that strong: ``1 - (1 - p)^tokens``."""
    with np.errstate(divide="ignore"):
        return -np.expm1(tokens * np.log1p(-tail))


def base_rate(subject: Subject, show: bool = True) -> BaseRate:
    """Return the base rate from the subject's store; without one from the subject's windows, which are read.

    Raises UserError where there is neither, and where no token counts.
    """
    found = _of_store(subject.store) if subject.store is not None else _of_windows(subject, show)
    if not found.n:
        raise UserError("base rate: the mask leaves no token of the text at large; give more of it")
    return found


def _of_store(store: FeatureStore) -> BaseRate:
    return BaseRate(store.n_kept, store.stats.count, store.stats.largest, lambda feature: store.column(feature)[1])


def _of_windows(subject: Subject, show: bool) -> BaseRate:
    if subject.harvester is None or not len(subject.windows):
        raise UserError("base rate: needs a feature store, or windows of text to read; give store=... or a corpus")
    n, features, values = 0, [], []
    units = subject.units()
    with inference(subject.sae):
        for numbers in track(units, len(units), "how often features fire at large", show):
            unit = read_unit(subject, numbers)
            n += len(unit.x)
            _, index, value = unit.features.triples()
            features.append(index.cpu().numpy())
            values.append(value.float().cpu().numpy())
    index, value = np.concatenate(features), np.concatenate(values)
    order = np.argsort(index, kind="stable")
    value = value[order]
    count = np.bincount(index, minlength=subject.sae.d_sae)
    starts = np.concatenate([[0], count.cumsum()])
    largest = np.zeros(subject.sae.d_sae, np.float32)
    np.maximum.at(largest, index[order], np.abs(value))
    return BaseRate(n, count, largest, lambda feature: value[starts[feature] : starts[feature + 1]])

"""How strongly two features go together, and which are each one's strongest partners."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from sae_lightning.store import FeatureStore
from sae_lightning.studies.cofiring import cofiring, pair_products
from sae_lightning.studies.ranking import largest

Measure = Literal["correlation", "jaccard", "pmi"]
MEASURES: tuple[Measure, ...] = ("correlation", "jaccard", "pmi")

# A variance below this share of the mean square is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Partners:
    """Each feature's strongest partners, strongest first; -1, a count of 0 and NaN where there are fewer than n.

    correlation is NaN throughout where it was not asked for.
    """

    partner: Int[NDArray, "d_sae n"]
    count: Int[NDArray, "d_sae n"]
    jaccard: Float[NDArray, "d_sae n"]
    pmi: Float[NDArray, "d_sae n"]
    correlation: Float[NDArray, "d_sae n"]


def association(
    measure: Measure,
    store: FeatureStore,
    i: Int[NDArray, "..."],
    j: Int[NDArray, "..."],
    counts: Int[NDArray, "..."],
    products: Float[NDArray, "..."] | None = None,
) -> Float[NDArray, "..."]:
    """Return a measure of features i and j, from what ``cofiring`` has of them, float64. Shapes are broadcast.

    Over the n tokens that count, with n_i firings of i, n_ij (``counts``) of both, and activations a_i(t), 0 where a
    feature is silent:

    - ``jaccard = n_ij / (n_i + n_j - n_ij)``;
    - ``pmi = ln(n n_ij / (n_i n_j))``: pointwise mutual information in nats; -inf for two that never meet;
    - ``correlation``: Pearson's r of a_i and a_j over all n tokens, silent ones included. Needs ``products``.

    NaN where there is nothing to divide by: a feature that never fires, or under correlation never changes.
    """
    stats, n = store.stats, max(1, store.n_kept)
    with np.errstate(divide="ignore", invalid="ignore"):
        if measure == "jaccard":
            return counts / (stats.count[i] + stats.count[j] - counts)
        if measure == "pmi":
            return np.log(counts * (n / stats.count[i]) / stats.count[j])
        assert products is not None, "the correlation needs products"
        mean, square = stats.total / n, stats.squares / n
        variance = square - mean**2
        deviation = np.sqrt(np.where(variance > _ROUNDING * square, variance, np.nan))
        covariance = products / n - mean[i] * mean[j]
        return (covariance / deviation[i] / deviation[j]).clip(-1, 1)


def strongest_partners(
    store: FeatureStore,
    measure: Measure,
    n: int,
    *,
    min_count: int = 1,
    correlations: bool = False,
    left_out: NDArray[np.bool_] | None = None,
    each: Callable[[NDArray[np.float32]], object] | None = None,
    show: bool = True,
) -> Partners:
    """Return the n features that go most strongly with each feature, of equal ones the lower number first.

    Partners fire together on at least ``min_count`` tokens and on more than independent features would (n n_ij > n_i
    n_j), and the measure that ranks them, in float32, is above 0. correlations: give those too where another measure
    ranks. left_out [d_sae]: features that are nobody's partner and have none. each: called with
    the measure of the next few features and all others, float32 [b, d_sae].
    """
    found = _none(store.d_sae, min(n, store.d_sae))
    every, firings = np.arange(store.d_sae), store.stats.count.astype(np.float64)
    for rows, counts, products in cofiring(store, products=measure == "correlation", show=show):
        i = rows[:, None]
        score = association(measure, store, i, every, counts, products).astype(np.float32)
        if each is not None:
            each(score)
        by_chance = firings[i] * (firings / max(1, store.n_kept))
        allowed = (counts >= max(1, min_count)) & (counts > by_chance) & (score > 0)
        allowed[np.arange(len(rows)), rows] = False
        if left_out is not None:
            allowed[:, left_out] = False
            allowed[left_out[rows]] = False
        score[~allowed] = -np.inf
        columns, best = (value.numpy() for value in largest(torch.from_numpy(score), n))
        there = best > -np.inf
        found.partner[rows] = np.where(there, columns, -1)
        found.count[rows] = np.where(there, np.take_along_axis(counts, columns, axis=1), 0)
        getattr(found, measure)[rows] = np.where(there, best, np.nan)
    _fill(
        found, store, [name for name in MEASURES if name != measure and (correlations or name != "correlation")], show
    )
    return found


def _fill(found: Partners, store: FeatureStore, measures: list[Measure], show: bool) -> None:
    """Work out more measures of the partners found, in place."""
    there = found.partner >= 0
    products = pair_products(store, found.partner, show=show) if "correlation" in measures else None
    for measure in measures:
        value = association(measure, store, np.arange(len(there))[:, None], found.partner, found.count, products)
        getattr(found, measure)[there] = value[there]


def _none(d_sae: int, n: int) -> Partners:
    measures = (np.full((d_sae, n), np.nan, np.float32) for _ in range(3))
    return Partners(np.full((d_sae, n), -1, np.int32), np.zeros((d_sae, n), np.int64), *measures)

"""How well activations are foretold: precision, recall, F1 and correlation, with intervals over texts."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sae_lightning.core import Estimate
from sae_lightning.metrics import bootstrap_weights, interval
from sae_lightning.studies.autointerp.explainers.natural import Natural

#: Scores by name, in the order they are shown.
SCORES = ("f1", "precision", "recall", "correlation")


def foretold(
    natural: Natural, said: Float[NDArray, "n"], *, draws: int = 1000, seed: int = 0, above: float = 0.0
) -> dict[str, Estimate]:
    """Return how well ``said``, activations foretold [n], goes with the unit's own on natural text.

    A unit fires, or is said to, where its activation is above ``above``, in its units::

        precision = both / said    recall = both / fires    F1 = 2 both / (said + fires)

    counted over the tokens that the mask keeps; correlation is Pearson's r over the same tokens. None where there is
    nothing to divide by. Intervals resample texts; the estimate's ``tokens`` are those counted.
    """
    kept = natural.kept
    real, told = natural.values[kept].astype(np.float64), said[kept].astype(np.float64)
    fires, claims = real > above, told > above
    ones = np.ones(len(real))
    columns = np.stack([ones, fires, claims, fires & claims, real, told, real * real, told * told, real * told], axis=1)
    _, text = np.unique(natural.text[kept], return_inverse=True)
    n_texts = int(text.max(initial=-1)) + 1
    sums = np.stack([np.bincount(text, column, n_texts) for column in columns.T], axis=1)
    whole = _figures(sums.sum(0, keepdims=True))
    drawn = _figures(_weights(n_texts, draws, seed) @ sums) if n_texts else whole
    out = {}
    for name, value in zip(SCORES, whole[0].tolist(), strict=True):
        defined = np.isfinite(value)
        ends = interval(value, drawn[:, SCORES.index(name)], n_texts) if defined else None
        out[name] = Estimate(value if defined else None, *(ends or (None, None)), len(real))
    return out


@lru_cache(maxsize=8)
def _weights(n_texts: int, draws: int, seed: int) -> NDArray[np.float64]:
    return bootstrap_weights(n_texts, draws, seed).numpy()


def _figures(sums: Float[NDArray, "b 9"]) -> Float[NDArray, "b 4"]:
    """Return the scores of sums over tokens, NaN where one is not defined."""
    n, fires, claims, both, real, told, real2, told2, product = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = (n * real2 - real**2) * (n * told2 - told**2)
        r = (n * product - real * told) / np.sqrt(np.where(spread > 0, spread, np.nan))
        return np.stack([2 * both / (fires + claims), both / claims, both / fires, r], axis=1)

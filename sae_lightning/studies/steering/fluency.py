"""How surprising texts are to a language model."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray


def perplexity(nats: Float[NDArray, "*k"], tokens: Float[NDArray, "*k"]) -> Float[NDArray, "*k"]:
    """Return ``exp(sum of cross-entropies / number of tokens)``, 1 for a text that is no surprise at all.

    nats: sums of ``-log p(token | everything before it)``. NaN where there are no tokens.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.exp(np.asarray(nats, np.float64) / np.asarray(tokens, np.float64))

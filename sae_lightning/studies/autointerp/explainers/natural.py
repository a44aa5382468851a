"""Text as it comes, and a unit's activations on it: what patterns are scored on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from sae_lightning.studies.autointerp.records import Record


@dataclass(frozen=True)
class Natural:
    """Whole texts, one after the other, and one unit's activation on each token.

    text: number of each token's text. kept: which tokens the mask leaves in; the others are context.
    """

    token_ids: Int[NDArray, "n"]
    text: Int[NDArray, "n"]
    kept: Bool[NDArray, "n"]
    values: Float[NDArray, "n"]

    @property
    def begin(self) -> Int[NDArray, "n"]:
        """The place of the first token of each token's text."""
        new = np.r_[True, self.text[1:] != self.text[:-1]] if len(self.text) else np.zeros(0, bool)
        return np.maximum.accumulate(np.where(new, np.arange(len(self.text)), 0))


#: Gives what a record's unit does on natural text, of which the record shows nothing.
Observe = Callable[[Record], Natural]

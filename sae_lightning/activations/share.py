"""A seeded random share of the tokens: who takes part is a property of the token, not of the order it comes in."""

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_lightning.core import ActivationBatch, UserError, derive_seed


class TokenShare:
    """Token i takes part when ``hash(i, seed) / 2^64 < share``, hash being splitmix64.

    The same tokens take part however the rows come (streamed, cached, in any order), in every epoch, and a larger
    share of the same seed contains the smaller one. share: in (0, 1], else UserError; 1 is every token.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
    """

    def __init__(self, share: float = 1.0, seed: int = 0) -> None:
        if not 0 < share <= 1:
            raise UserError(f"data.share={share}: must be above 0 and at most 1")
        self.share = share
        self.seed = seed
        self._offset = np.uint64(derive_seed(seed, "activations", "share"))

    def keep(self, token_index: Int[Tensor, "n"]) -> Bool[Tensor, "n"]:
        """Return which tokens take part, on the device of ``token_index``."""
        if self.share == 1:
            return torch.ones_like(token_index, dtype=torch.bool)
        z = token_index.cpu().numpy().astype(np.uint64)
        with np.errstate(over="ignore"):
            z = (z + self._offset) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
        return torch.from_numpy(z < np.uint64(int(self.share * 2**64))).to(token_index.device)

    def rows(self, batch: ActivationBatch) -> ActivationBatch:
        """Return the rows of ``batch`` that take part."""
        if self.share == 1:
            return batch
        keep = self.keep(batch.token_index)
        x = batch.x[keep]
        y = x if batch.y is batch.x else batch.y[keep]
        return ActivationBatch(x=x, y=y, token_index=batch.token_index[keep])

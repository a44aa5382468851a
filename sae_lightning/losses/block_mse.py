"""Errors that a reconstruction leaves in later layers of the language model."""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, MinLen
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Schedule
from sae_lightning.losses.context import StepContext
from sae_lightning.losses.reconstruction import squared_error
from sae_lightning.losses.term import LossTerm


class BlockMSE(LossTerm):
    """``mean_l mean_token ||b_l - b_hat_l||^2 / Var(b_l)``: b_l is the residual stream after block l.

    Without the SAE (b) and with the reconstruction in its place (b_hat), over the tokens that count;
    ``Var(b_l) = mean_token ||b_l - mean(b_l)||^2``, so layers of any size weigh alike.

    layers: blocks l, all above the site. None: every one above it.
    normalise: ``variance`` is that; ``none`` leaves the plain per-token sum of squares.

    A few tokens of enormous norm (attention sinks) may be most of a layer's variance and of its error: layers where
    they are say little. Source: Braun et al. 2024 ("e2e + downstream").
    """

    name = "block_mse"
    reads_model = True

    def __init__(
        self,
        coefficient: Schedule | float = 0.1,
        layers: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)] | None = None,
        normalise: Literal["none", "variance"] = "variance",
    ) -> None:
        super().__init__(coefficient)
        self.layers = layers
        #: The residual sites of these layers, once the model is known; None: every later one that a run shows.
        self.sites: tuple[str, ...] | None = None
        self.normalise = normalise

    def compute(self, ctx: StepContext) -> Float[Tensor, ""]:
        assert ctx.through is not None, "block_mse is measured through the language model"
        clean, spliced = ctx.through.clean.later, ctx.through.spliced.later
        errors = []
        for site in clean if self.sites is None else self.sites:
            activations = clean[site]
            keep = ctx.through.keep.to(activations.device)
            b, b_hat = (_wide(value[keep]) for value in (activations, spliced[site]))
            error = squared_error(b_hat, b)
            if self.normalise == "variance":
                variance = ctx.variance(b)
                error = error / torch.where(variance > 0, variance, 1.0)
            errors.append(error)
        return torch.stack(errors).mean()


def _wide(rows: Tensor) -> Tensor:
    return rows if rows.dtype == torch.float64 else rows.float()

"""What a loss term sees of one training step."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lightning.core import ActivationBatch, SAEOutput
from sae_lightning.sae import SparseAutoencoder


@dataclass(frozen=True)
class StepContext:
    """One step, as every loss term receives it.

    batch:    rows that were read and must be written, already normalised.
    out:      the SAE's forward pass on ``batch.x``.
    sae:      the SAE itself, for terms that decode again (AuxK, Multi-TopK, Matryoshka, gated).
    dead:     features that have not fired for the configured number of tokens.
    progress: step / total steps, in [0, 1]; schedules are functions of it.
    n_dead:   ``dead.sum()`` as a host number where the caller has one (a step-old one will do): it saves AuxK's work
              when it is 0, without a look at the device. Needless on the CPU, where looking is free.
    clean, spliced: reserved for end-to-end terms: the language model's outputs without and with the SAE in it.
    """

    batch: ActivationBatch
    out: SAEOutput
    sae: SparseAutoencoder
    dead: Bool[Tensor, "d_sae"]
    progress: float = 1.0
    clean: Float[Tensor, "..."] | None = None
    spliced: Float[Tensor, "..."] | None = None
    n_dead: int | None = None
    _cache: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def pre_acts(self) -> Float[Tensor, "n d_sae"]:
        """Return all pre-activations, differentiable; made anew where the forward pass did not keep them whole."""
        if self.out.pre_acts is not None and self.out.pre_acts.requires_grad:
            return self.out.pre_acts
        if "pre_acts" not in self._cache:
            self._cache["pre_acts"] = self.sae.pre_acts(self.batch.x)
        return self._cache["pre_acts"]

    def target_variance(self) -> Float[Tensor, ""]:
        """Return ``Var(y) = mean_token ||y - mean(y)||^2`` of the batch, detached; 1 where it is 0.

        A batch of equal rows has no variance to normalise by; dividing by 1 leaves its plain error. Shared by the
        terms of one step.
        """
        if "target_variance" not in self._cache:
            with torch.no_grad():
                variance = token_variance(self.batch.y)
                self._cache["target_variance"] = torch.where(variance > 0, variance, 1.0)
        return self._cache["target_variance"]


def token_variance(y: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return ``mean_token ||y - mean(y)||^2``: divided by n, so a duplicated batch has the same.

    Rounding leaves equal rows a variance near ``eps^2 * E||y||^2`` instead of 0; that counts as 0 here.
    """
    centred = y - y.mean(0)
    variance = centred.square().sum(-1).mean()
    floor = 4 * torch.finfo(y.dtype).eps ** 2 * y.square().sum(-1).mean()
    return torch.where(variance > floor, variance, torch.zeros_like(variance))

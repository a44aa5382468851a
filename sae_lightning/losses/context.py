"""What a loss term sees of one training step."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lightning.core import ALONE, ActivationBatch, Ranks, SAEOutput
from sae_lightning.losses.through import Through
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
    through:  what the language model makes of the reconstruction, where a term reads that (``LossTerm.reads_model``).
    ranks:    processes that the batch's rows are spread over; alone, the batch is all there is.
    n_rows:   rows of all of them together, the number that a mean over tokens divides by; None: those of ``batch``.

    A term returns the mean over this process's own rows. Gradients are weighted by each one's share of the rows when
    they are added up, so a sum over tokens needs nothing more; what is no sum over tokens (a variance, the square of a
    mean) is made of ``ranks``.
    """

    batch: ActivationBatch
    out: SAEOutput
    sae: SparseAutoencoder
    dead: Bool[Tensor, "d_sae"]
    progress: float = 1.0
    through: Through | None = None
    n_dead: int | None = None
    ranks: Ranks = ALONE
    n_rows: int | None = None
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
                variance = self.variance(self.batch.y)
                self._cache["target_variance"] = torch.where(variance > 0, variance, 1.0)
        return self._cache["target_variance"]

    @property
    def rows(self) -> int:
        """Rows of the whole batch, those of other processes too."""
        return len(self.batch) if self.n_rows is None else self.n_rows

    def variance(self, y: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """Return ``token_variance`` of the whole batch, of which ``y`` are this process's rows; without a gradient."""
        return token_variance(y) if self.ranks.alone else variance_over(self.ranks, y)

    def mean_over_ranks(self, mean: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return the mean over the whole batch of what ``mean`` is over this process's rows.

        For a term that is no sum over tokens. The gradient with respect to ``mean`` is that with respect to the result:
        the share of the rows comes in where gradients are added up.
        """
        if self.ranks.alone:
            return mean
        whole = self.ranks.sum(mean * (len(self.batch) / self.rows))
        return mean + (whole - mean).detach()


def token_variance(y: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return ``mean_token ||y - mean(y)||^2``: divided by n, so a duplicated batch has the same.

    Rounding leaves equal rows a variance near ``eps^2 * E||y||^2`` instead of 0; that counts as 0 here.
    """
    centred = y - y.mean(0)
    return _above_rounding(centred.square().sum(-1).mean(), y.square().sum(-1).mean(), y.dtype)


@torch.no_grad()
def variance_over(ranks: Ranks, y: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return ``token_variance`` of all ranks' rows together, from each one's mean and sum of squares around it.

    ``sum_r (S_r + n_r ||m_r - m||^2) / n`` with ``m = sum_r n_r m_r / n``: exact, in float64, and one collective.
    """
    n, mean = len(y), y.mean(0) if len(y) else y.new_zeros(y.shape[1])
    around, size = (y - mean).square().sum(-1).sum(), y.square().sum(-1).sum()
    own = torch.cat([torch.stack([torch.full_like(size, n), around, size]), mean]).double()
    every = ranks.stack(own)
    counts, arounds, sizes, means = every[:, 0], every[:, 1], every[:, 2], every[:, 3:]
    total = counts.sum()
    centre = (counts[:, None] * means).sum(0) / total
    spread = arounds.sum() + (counts * (means - centre).square().sum(1)).sum()
    return _above_rounding((spread / total).to(y.dtype), (sizes.sum() / total).to(y.dtype), y.dtype)


def _above_rounding(variance: Tensor, square: Tensor, dtype: torch.dtype) -> Tensor:
    floor = 4 * torch.finfo(dtype).eps ** 2 * square
    return torch.where(variance > floor, variance, torch.zeros_like(variance))

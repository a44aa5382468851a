"""One look at the activations before training: fits the mask, gives the sample for normalisation and initialisation."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lightning.activations.harvest import Check, Harvester
from sae_lightning.activations.mask import MaskPolicy, real_tokens, row_norms
from sae_lightning.activations.normalise import gamma
from sae_lightning.core import Permutation, UserError, derive_seed
from sae_lightning.core.progress import progress


@dataclass(frozen=True)
class ActivationStats:
    """What a sample of activations looks like. Norms are Euclidean, in the site's own units.

    n: rows that the mask keeps. median_norm, mean_norm, max_norm: over those. gamma: see ``normalise.gamma``.
    masked_share: share of the text's tokens that the mask removes; masked_energy_share: their share of sum ||x||^2.
    """

    n: int
    median_norm: float
    mean_norm: float
    max_norm: float
    gamma: float
    masked_share: float = 0.0
    masked_energy_share: float = 0.0

    def to_dict(self) -> dict[str, float | int]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Calibration:
    """mask: fitted. sample: kept rows in float32, y_sample the written ones (the same tensor for an SAE)."""

    mask: MaskPolicy
    sample: Float[Tensor, "n d_in"]
    y_sample: Float[Tensor, "n d_out"]
    stats: ActivationStats


def describe(
    sample: Float[Tensor, "n d"],
    *,
    norms: Float[Tensor, "m"] | None = None,
    keep: Bool[Tensor, "m"] | None = None,
) -> ActivationStats:
    """Return statistics of kept rows. norms, keep: of all m tokens of the text, for the shares removed."""
    if not len(sample):
        raise UserError("activations: the sample is empty; check the text and the mask")
    own = row_norms(sample).double()
    shares = {}
    if norms is not None and keep is not None:
        energy = norms.double().square()
        removed, total = float(energy[~keep].sum()), float(energy.sum())
        share = removed / total if total > 0 and math.isfinite(total) else 0.0
        shares = {"masked_share": float((~keep).double().mean()), "masked_energy_share": share}
    return ActivationStats(
        n=len(sample),
        median_norm=float(own.median()),
        mean_norm=float(own.mean()),
        max_norm=float(own.max()),
        gamma=gamma(sample),
        **shares,
    )


def calibrate(harvester: Harvester, n_tokens: int, seed: int, check: Check | None = None) -> Calibration:
    """Fit the mask's median norm and take a sample of up to ``n_tokens`` kept rows, seeded.

    Looks at windows of ``harvester.windows`` (the training split) in an order of its own: no training stream moves.
    ``harvester.mask`` is the policy to fit (a fitted one is fitted anew, None means no rule at all). Deterministic:
    the same seed gives the same sample. Raises UserError when no token is left, or activations are not finite.
    """
    if n_tokens < 1:
        raise UserError(f"calibration tokens={n_tokens}: must be at least 1")
    policy = harvester.mask or MaskPolicy(first_position=False, norm_multiple=None)
    base = harvester.with_mask(MaskPolicy(policy.special_ids, policy.first_position, norm_multiple=None))
    xs, ys, all_norms, all_candidates = [], [], [], []
    found = 0
    for numbers in _windows(harvester, n_tokens, seed):
        batch, x, y, candidates = base.full_with_targets(numbers, check)
        real = real_tokens(batch).to(x.device)
        xs.append(x[candidates])
        ys.append(xs[-1] if y is x else y[candidates])
        all_norms.append(row_norms(x)[real])
        all_candidates.append(candidates[real])
        found += len(xs[-1])
        if found >= n_tokens:
            break
    x, norms, candidates = torch.cat(xs), torch.cat(all_norms), torch.cat(all_candidates)
    y = x if harvester.same_sites else torch.cat(ys)
    _check_finite(harvester, x, y)
    mask = policy.fit(norms[candidates]) if policy.norm_multiple is not None else policy
    kept = candidates.clone()
    if mask.norm_multiple is not None and mask.median_norm is not None:
        kept &= norms <= mask.norm_multiple * mask.median_norm
    own = kept[candidates]
    if not own.any():
        raise UserError("mask: leaves no token of the calibration sample; loosen the mask")
    sample = x[own][:n_tokens].float()
    y_sample = sample if y is x else y[own][:n_tokens].float()
    return Calibration(mask, sample, y_sample, describe(sample, norms=norms, keep=kept))


def _windows(harvester: Harvester, n_tokens: int, seed: int) -> Iterator[np.ndarray]:
    """Yield micro-batches of window numbers, each window at most once."""
    n = len(harvester.windows)
    order = Permutation(n, derive_seed(seed, "activations", "calibrate"))
    # Whole micro-batches: the same shapes as in training, hence the same bits.
    wanted = harvester.micro_batch * math.ceil(n_tokens / harvester.windows.context_length / harvester.micro_batch)
    with progress("calibrating on activations", min(n, wanted)) as advance:
        for first in range(0, n, harvester.micro_batch):
            numbers = order[np.arange(first, min(first + harvester.micro_batch, n))]
            yield numbers
            advance(len(numbers))


def _check_finite(harvester: Harvester, *values: Tensor) -> None:
    for value in values:
        if not torch.isfinite(value).all():
            raise UserError(
                f"activations at {', '.join(harvester.sites.read)}: NaN or infinity for a token that counts, in "
                f"{value.dtype}; use lm.dtype=float32 or another site"
            )

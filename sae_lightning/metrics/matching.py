"""Learned directions against true ones: who matches whom, and how often they fire together."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lightning.core import Features
from sae_lightning.metrics.running import SumMetric, ratio

# Cosines that are kept at once: 1 GB in float32. The Hungarian match needs all of them, best matches only some rows.
LARGEST_MATCH = 1 << 28
_CHUNK = 1 << 24


class Matching(NamedTuple):
    """Cosines ``|cos(d_j, t_i)|`` of F latents and N true directions, told in four vectors.

    best [F]: the true feature nearest to each latent, best_cosine [F]. true_cosine [N]: of each true feature with its
    nearest latent. matched [N]: cosine in the one-to-one match that maximises their sum (Hungarian), NaN for true
    features without a partner; None where F N is too large for it.
    """

    best: Int[Tensor, "F"]
    best_cosine: Float[Tensor, "F"]
    true_cosine: Float[Tensor, "N"]
    matched: Float[Tensor, "N"] | None

    @property
    def crowding(self) -> Float[Tensor, "F"]:
        """One over the number of latents that are nearest to a latent's true feature: its mean is the uniqueness."""
        return 1.0 / torch.bincount(self.best)[self.best].double()


def match(learned: Float[Tensor, "F d"], true: Float[Tensor, "N d"]) -> Matching:
    """Match directions of any length by the absolute cosine; a direction of length 0 has cosine 0 with everything."""
    learned, true = (torch.nn.functional.normalize(part.detach().cpu().float(), dim=1) for part in (learned, true))
    best, best_cosine = [], []
    true_cosine = torch.zeros(len(true))
    whole = len(learned) * len(true) <= LARGEST_MATCH
    parts: list[Tensor] = []
    for rows in learned.split(max(1, _CHUNK // len(true))):
        cosines = (rows @ true.T).abs().clamp(max=1.0)
        found = cosines.max(1)
        best.append(found.indices)
        best_cosine.append(found.values)
        true_cosine = torch.maximum(true_cosine, cosines.max(0).values)
        if whole:
            parts.append(cosines)
    matched = _one_to_one(torch.cat(parts)) if whole else None
    return Matching(torch.cat(best), torch.cat(best_cosine).double(), true_cosine.double(), matched)


def _one_to_one(cosines: Float[Tensor, "F N"]) -> Float[Tensor, "N"]:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    out = torch.full((cosines.shape[1],), torch.nan, dtype=torch.float64)
    out[torch.from_numpy(columns)] = cosines[torch.from_numpy(rows), torch.from_numpy(columns)].double()
    return out


class FiringAgreement(SumMetric):
    """How well each latent j tells when the true feature ``best[j]`` nearest to it fires, by SynthSAEBench's formulas.

    Over rows: TP both fire, FP the latent alone, FN the feature alone. ``precision = mean_j TP / (TP + FP)``,
    ``recall = mean_j TP / (TP + FN)``, ``f1 = mean_j 2 P_j R_j / (P_j + R_j)``, means over *all* latents with 0 where a
    ratio is undefined: a dead latent counts as 0. ``shrinkage`` is the sum over true positives of the recovered
    magnitude ``f_j ||d_j||`` over the sum of the true magnitudes. ``true_l0``: true features a row.

    best [F], norms [F]: of the decoder's rows. State: n, sums of true features, and four vectors over latents.
    """

    _fields = ("n", "true_firings", "both", "fired", "planted", "recovered", "magnitude")

    def __init__(self, best: Int[Tensor, "F"], norms: Float[Tensor, "F"]) -> None:
        self.best, self.norms = best, norms.detach().double()
        zero = torch.zeros(len(best), dtype=torch.float64, device=best.device)
        self.n, self.true_firings = zero.new_zeros(()), zero.new_zeros(())
        self.both, self.fired, self.planted, self.recovered, self.magnitude = (zero.clone() for _ in range(5))

    def update(self, features: Features, truth: Features) -> None:
        """Take in the latents (any form) and true features (sparse) of the same rows."""
        rows, latents, values = (part.to(self.best.device) for part in features.triples())
        true_rows, true_features, true_values = (part.to(self.best.device) for part in truth.triples())
        # Cells (row, true feature): where does the latent's cell lie among those that fire?
        keys, order = (true_rows * truth.d_sae + true_features).sort()
        wanted = rows * truth.d_sae + self.best[latents]
        place = torch.searchsorted(keys, wanted).clamp(max=max(0, len(keys) - 1))
        hit = keys[place] == wanted if len(keys) else torch.zeros_like(wanted, dtype=torch.bool)
        both, strength = latents[hit], values[hit].double().abs() * self.norms[latents[hit]]
        counts = torch.bincount(true_features, minlength=truth.d_sae).double()
        self.n = self.n + features.n_rows
        self.true_firings = self.true_firings + len(true_rows)
        self.fired = self.fired + torch.bincount(latents, minlength=len(self.best))
        self.both = self.both + torch.bincount(both, minlength=len(self.best))
        self.planted = self.planted + counts[self.best]
        self.recovered = self.recovered.index_add(0, both, strength)
        self.magnitude = self.magnitude.index_add(0, both, true_values[order[place[hit]]].double())

    def values(self, sums: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        precision, recall, f1 = per_latent(sums)
        return {
            "f1": f1.mean(-1),
            "precision": precision.mean(-1),
            "recall": recall.mean(-1),
            "shrinkage": ratio(sums["recovered"].sum(-1), sums["magnitude"].sum(-1)),
            "true_l0": ratio(sums["true_firings"], sums["n"]),
        }


def per_latent(sums: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return precision, recall and F1 of every latent, 0 where undefined: [..., F]."""
    both, fired, planted = sums["both"], sums["fired"], sums["planted"]
    # 2 P R / (P + R), as one ratio of counts.
    return _share(both, fired), _share(both, planted), _share(2 * both, fired + planted)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), 0.0)

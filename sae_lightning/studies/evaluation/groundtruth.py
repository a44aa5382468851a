"""Has the SAE found the true features? Asked of synthetic data alone, whose features are known."""

from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.metrics import FVU, RunningMetric, bootstrap_weights, interval
from sae_lightning.metrics.matching import FiringAgreement, Matching, match, per_latent
from sae_lightning.studies.passes import Pass
from sae_lightning.studies.study import Cell, Estimate, Result, Study, Table
from sae_lightning.studies.subject import Subject
from sae_lightning.studies.windows import DRAWS, WindowStudy, measure_all

COLUMNS = ("latent", "true_feature", "cosine", "f1", "precision", "recall", "magnitude_ratio", "fires", "truth_fires")


class GroundTruthStudy(Study):
    """``mmcs mcc uniqueness`` of the decoder, ``f1 precision recall shrinkage`` of the firings, and a table of latents.

    With ``c_ji = |cos(d_j, t_i)|`` of latent j's decoder row and true direction i, and ``best_j = argmax_i c_ji``:

    - ``mmcs = mean_i max_j c_ji`` over true features (Sharkey et al. 2022, "Taking features out of superposition");
    - ``mcc``: mean of c over the one-to-one match that maximises its sum (Hungarian), min(F, N) pairs;
    - ``uniqueness``: number of different best_j over the number of latents;
    - ``f1 precision recall shrinkage``: see ``FiringAgreement``, of latent j against true feature best_j;
    - ``explained_variance``: of the same rows.

    mcc, uniqueness and f1 are SynthSAEBench's (``sae_lens.synthetic.evals``), whose "shrinkage" is our ``l2_ratio``.
    Intervals of f1, precision, recall, shrinkage, true_l0 and explained_variance: a bootstrap over blocks of 1,024
    rows. Of mmcs and mcc: over true features (in mcc those that have a partner); of uniqueness: over latents. An
    interval tells how far a figure would move with other rows, or other features of the kind; not with other seeds.

    rows: of the table, the latents that fire most often. draws, seed: of the bootstrap.
    """

    name: ClassVar[str] = "groundtruth"

    def __init__(
        self,
        rows: Annotated[int, Ge(0)] = 200,
        draws: Annotated[int, Ge(100)] = DRAWS,
        seed: Annotated[int, Ge(0)] = 0,
        show_progress: bool = True,
    ) -> None:
        self.rows, self.draws, self.seed, self.show_progress = rows, draws, seed, show_progress

    def reason(self, subject: Subject) -> str | None:
        if subject.truth is None:
            return "needs data whose features are known; use data=synthetic or data=toy_superposition"
        return None

    def run(self, subject: Subject) -> Result:
        if (reason := self.reason(subject)) is not None or subject.truth is None:
            raise UserError(f"ground truth: {reason}")
        matching = match(subject.sae.W_dec, subject.truth.directions)
        firings = _Firings(matching, self.rows)
        found = measure_all(subject, [firings], draws=self.draws, seed=self.seed, show_progress=self.show_progress)[
            firings.name
        ]
        estimates, draws = self._of_directions(matching, found.tokens)
        for name in ("fvu", "mse"):
            del found.estimates[name], found.draws[name]
        notes = ("too many pairs for the one-to-one match: mcc is left out",) if matching.matched is None else ()
        return Result(estimates | found.estimates, found.tables, notes, draws | found.draws)

    def _of_directions(self, m: Matching, tokens: int) -> tuple[dict[str, Estimate], dict[str, np.ndarray]]:
        estimates: dict[str, Estimate] = {}
        draws: dict[str, np.ndarray] = {}
        for name, values in (("mmcs", m.true_cosine), ("mcc", m.matched), ("uniqueness", m.crowding)):
            if values is None:
                continue
            drawn, there = _mean_draws(values, self.draws, self.seed)
            value = float(values.nanmean())
            low, high = interval(value, drawn, there) or (None, None)
            estimates[name], draws[name] = Estimate(value, low, high, tokens), drawn
        return estimates, draws


class _Firings(WindowStudy):
    """The part that needs rows: firing agreement and explained variance, block by block."""

    name: ClassVar[str] = "ground truth"
    # A resample has fewer different blocks, so more latents that never fire: without this their zeros pull draws down.
    linear: ClassVar[frozenset[str]] = frozenset({"f1", "precision", "recall"})

    def __init__(self, matching: Matching, rows: int) -> None:
        self.matching, self.rows = matching, rows

    def measure(self, subject: Subject, unit: Pass) -> list[tuple[RunningMetric, ...]]:
        assert unit.truth is not None
        best, norms = self.matching.best.to(subject.device), unit.sae.W_dec.norm(dim=1)
        out: list[tuple[RunningMetric, ...]] = []
        for number, window in enumerate(unit.windows()):
            firing, fvu = FiringAgreement(best, norms), FVU(unit.sae.d_out, subject.device)
            firing.update(window.features, unit.truth.slice(unit.offsets[number], unit.offsets[number + 1]))
            fvu.update(window.y, window.y_hat)
            out.append((firing, fvu))
        return out

    def tables(self, subject: Subject, metrics: tuple[RunningMetric, ...]) -> dict[str, Table]:
        sums = metrics[0].state()
        precision, recall, f1 = per_latent(sums)
        strength = sums["recovered"] / sums["magnitude"]
        order = sums["fired"].argsort(descending=True, stable=True)[: self.rows]
        n = float(sums["n"])
        columns = (f1, precision, recall, strength, sums["fired"] / n, sums["planted"] / n)
        rows: list[tuple[Cell, ...]] = []
        for latent in order.tolist():
            known = (latent, int(self.matching.best[latent]), float(self.matching.best_cosine[latent]))
            rows.append((*known, *(float(column[latent]) for column in columns)))
        caption = (
            f"The {len(rows):,} latents that fire most often on {int(n):,} rows, each with its nearest true feature"
        )
        return {"latents": Table(COLUMNS, tuple(rows), caption)} if rows else {}


def _mean_draws(values: Float[Tensor, "n"], draws: int, seed: int) -> tuple[np.ndarray, int]:
    """Return bootstrap draws of the mean of the values that are defined, and how many those are.

    All places are drawn, defined or not: two SAEs' draws are then of the same true features.
    """
    weights = bootstrap_weights(len(values), draws, seed)
    there = torch.isfinite(values)
    total = weights @ values.nan_to_num(0.0)
    return (total / (weights @ there.double())).numpy(), int(there.sum())

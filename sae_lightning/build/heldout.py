"""Held-out figures for training: the studies, bound to a run's data and handed to its callbacks."""

from collections.abc import Iterable

from torch import Tensor

from sae_lightning.build.data import Data
from sae_lightning.config import EvaluationConfig
from sae_lightning.core import ActivationBatch, Estimate
from sae_lightning.sae import SAMPLE_ROWS, SparseAutoencoder, fold
from sae_lightning.studies import Subject
from sae_lightning.studies.evaluation import heldout_metrics
from sae_lightning.studies.windows import DRAWS
from sae_lightning.training import Lane


class HeldOut:
    """Evaluates lanes on held-out rows that are harvested once and kept, in a stream of their own."""

    def __init__(self, data: Data, config: EvaluationConfig, context_length: int) -> None:
        self.data = data
        self.config = config
        self.context_length = context_length
        self._kept: dict[tuple[str, int], ActivationBatch] = {}

    def during(self, lane: Lane) -> dict[str, float]:
        """Return fvu, l0 and the like of a lane as it stands, on ``evaluation.tokens`` rows."""
        rows = self._rows("heldout", self.config.tokens)
        subject = Subject(sae=fold(lane.sae, lane.normaliser), rows=rows)
        found = heldout_metrics(subject, show_progress=False)
        return {name: estimate.value for name, estimate in found.items() if estimate.value is not None}

    def final(self, sae: SparseAutoencoder, lane: Lane) -> dict[str, Estimate]:
        """Return the held-out figures of a folded SAE: ``final_tokens`` rows, ``downstream_tokens`` through the LM."""
        data = self.data
        rows = self._rows("heldout", self.config.final_tokens)
        n_windows = -(-self.config.downstream_tokens // max(1, self.context_length))
        subject = Subject(
            sae=sae,
            lm=data.lm if n_windows and data.downstream else None,
            harvester=data.downstream,
            windows=data.measured_windows()[:n_windows],
            rows=rows,
        )
        # Half of the run at most: features that fired at the start alone are dead at its end.
        window = min(10_000_000, max(1, int(lane.tokens_seen) // 2))
        dead = Estimate(lane.dead_share(window), None, None, window)
        return heldout_metrics(subject, dead=dead, draws=DRAWS)

    def sample(self) -> tuple[Tensor, Tensor]:
        """Return held-out rows to store beside an export, on which whoever loads it measures it again: (x, y)."""
        rows = self._rows("heldout", self.config.final_tokens)
        x = rows.x[:SAMPLE_ROWS]
        return x, x if rows.y is rows.x else rows.y[:SAMPLE_ROWS]

    def calibration(self) -> Iterable[Tensor]:
        """Return held-out rows to set inference thresholds on, from the other end than the ones measured."""
        return self._rows("calibration", self.config.final_tokens).x.split(4096)

    def _rows(self, what: str, n: int) -> ActivationBatch:
        """Return held-out rows, read once: the lanes of a bank are measured on the same ones."""
        if (what, n) not in self._kept:
            read = self.data.heldout_rows if what == "heldout" else self.data.calibration_rows
            self._kept[what, n] = read(n)
        return self._kept[what, n]

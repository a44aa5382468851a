"""At the end: recalibrate thresholds, fold the normalisation, measure, and write the export that others load."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from sae_lightning.core import Estimate, atomic_path
from sae_lightning.sae import BatchTopKSAE, SparseAutoencoder, fold, save_sae
from sae_lightning.sae.card import model_card
from sae_lightning.training.callbacks.base import lane_folder
from sae_lightning.training.lane import Lane
from sae_lightning.training.module import SAEModule

logger = logging.getLogger(__name__)

Figures = dict[str, Estimate]
FinalEvaluator = Callable[[SparseAutoencoder, Lane], Figures]


class Export(L.Callback):
    """Write ``export/config.json``, ``sae.safetensors`` and a model card (``lanes/NAME/export`` in a bank).

    calibration: gives raw held-out rows that no metric is measured on; an inference threshold (batch top-k) is set on
        them to the target l0.
    evaluate: measures the folded SAE on held-out data; its figures travel in the export's metadata.
    sample: gives raw held-out rows (x, y) that are stored with the SAE, for whoever loads it to measure it again.
    metadata: what the export says of its origin: sites, language model, mask. per_lane: what differs between lanes
        (normalisation, seed).
    """

    def __init__(
        self,
        run_dir: str,
        evaluate: FinalEvaluator,
        calibration: Callable[[], Iterable[Tensor]],
        sample: Callable[[], tuple[Tensor, Tensor]],
        metadata: dict[str, Any],
        per_lane: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.evaluate = evaluate
        self.calibration = calibration
        self.sample = sample
        self.metadata = metadata
        self.per_lane = per_lane or {}
        self.figures: dict[str, Figures] = {}

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Runs also when a resumed run had all its steps behind it; not when training was stopped or failed."""
        assert isinstance(pl_module, SAEModule)
        if pl_module.ranks.rank and not pl_module.sharded:
            return
        for name, lane in pl_module.each_lane():
            lane.eval()
            target = lane.sae.nominal_l0
            if target is not None and isinstance(lane.sae, BatchTopKSAE):
                lane.sae.calibrate_threshold(
                    (lane.normaliser.apply(rows) for rows in self.calibration()), float(target)
                )
            folded = fold(lane.sae, lane.normaliser)
            figures = self.evaluate(folded, lane)
            self.figures[name] = figures
            folder = lane_folder(self.run_dir, pl_module, name) / "export"
            trained = {"tokens": int(lane.tokens_seen), "steps": trainer.global_step, **plain(figures)}
            own = self.per_lane.get(name, {})
            sites = self.metadata.get("sites")
            if sites is not None:
                sites = {**sites, "scale_out": lane.normaliser.site_scales(sites["widths_out"])}
            folded.metadata = {**self.metadata, **own, "sites": sites, "training": trained}
            save_sae(folder, folded, sample=self.sample())
            if pl_module.ranks.rank:
                continue
            with atomic_path(folder / "README.md") as temporary:
                temporary.write_text(model_card(folded), encoding="utf-8")
            logger.info("export written to %s", folder)


def plain(figures: Figures) -> dict[str, dict[str, Any]]:
    """Return figures as files have them: ``heldout`` (values), ``intervals`` ([low, high] or null), ``measured_on``."""
    return {
        "heldout": {name: e.value for name, e in figures.items()},
        "intervals": {name: None if e.low is None else [e.low, e.high] for name, e in figures.items()},
        "measured_on": {name: e.tokens for name, e in figures.items()},
    }

"""The scaling record of a run: one line of JSON with size, compute and every final metric."""

import json
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from sae_lightning.core import write_json
from sae_lightning.core.files import atomic_path
from sae_lightning.training.callbacks.base import find
from sae_lightning.training.callbacks.export import Export
from sae_lightning.training.lane import Lane
from sae_lightning.training.module import SAEModule


def training_flops(d_in: int, d_out: int, d_sae: int, tokens: int) -> int:
    """Return ``(4 d_in + 6 d_out) d_sae tokens``: 10 d d_sae tokens for an SAE (d_in = d_out = d).

    The dense count, whatever the kernel really does, so that runs compare: 2 flops a weight a token for the encoder
    and decoder products forward, the same for both weight gradients, and for the features' gradient. The language
    model's share is not in it.
    """
    return (4 * d_in + 6 * d_out) * d_sae * tokens


class ScalingLog(L.Callback):
    """Write ``metrics.json`` and ``records.jsonl`` (one record a lane) and TensorBoard's HParams at the end.

    ``seconds`` is the wall time of ``fit`` in all sittings of the run (a resumed run adds to it), measured from the
    first step's request for data; evaluation at the end is not in it.
    """

    def __init__(self, run_dir: str, seed: int, hparams: dict[str, Any], record: dict[str, Any]) -> None:
        self.run_dir = Path(run_dir)
        self.seed = seed
        self.hparams = hparams
        self.record = record
        self._before = 0.0
        self._started = time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._before, self._started = self._elapsed(), time.perf_counter()

    def _elapsed(self) -> float:
        return self._before + time.perf_counter() - self._started

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict["seconds"]

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SAEModule)
        export = find(trainer, Export)
        assert export is not None, "ScalingLog needs the Export callback before it"
        seconds = self._before
        lines, summaries = [], []
        for name, lane in pl_module.each_lane():
            metrics = export.metrics[name]
            summary = self.summary(lane, metrics, seconds)
            single = len(pl_module.lanes) == 1
            folder = self.run_dir if single else self.run_dir / "lanes" / name
            summaries.append((folder / "metrics.json", summary))
            lines.append(json.dumps(self.full_record(name, lane, metrics, seconds), allow_nan=False))
            self._log_hparams(trainer, metrics)
        with atomic_path(self.run_dir / "records.jsonl") as temporary:
            temporary.write_text("\n".join(lines) + "\n")
        # Last: metrics.json says that the run is complete.
        for path, summary in summaries:
            write_json(path, summary)

    def summary(self, lane: Lane, metrics: dict[str, float | None], seconds: float) -> dict[str, Any]:
        """Return what metrics.json holds."""
        tokens = int(lane.tokens_seen)
        return {
            "heldout": metrics,
            "tokens": tokens,
            "seconds": round(seconds, 3),
            "tokens_per_s": round(tokens / seconds, 1) if seconds else None,
            "seed": self.seed,
        }

    def full_record(self, name: str, lane: Lane, metrics: dict[str, float | None], seconds: float) -> dict[str, Any]:
        """Return the scaling record of a lane."""
        sae, tokens = lane.sae, int(lane.tokens_seen)
        d_out = sae.W_dec.shape[1]
        return {
            **self.record,
            "lane": name,
            "architecture": sae.name,
            "d_in": sae.d_in,
            "d_out": d_out,
            "d_sae": sae.d_sae,
            "k": sae.nominal_l0,
            "parameters": sum(p.numel() for p in sae.parameters()),
            "tokens": tokens,
            "training_flops": training_flops(sae.d_in, d_out, sae.d_sae, tokens),
            "seed": self.seed,
            "seconds": round(seconds, 3),
            "dead_after_tokens": lane.dead_after_tokens,
            **metrics,
        }

    def _log_hparams(self, trainer: L.Trainer, metrics: dict[str, float | None]) -> None:
        final = {f"final/{key}": value for key, value in metrics.items() if value is not None}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self.hparams, final, step=trainer.global_step)
                logger.experiment.flush()

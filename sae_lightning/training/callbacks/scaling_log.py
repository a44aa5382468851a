"""The scaling record of a run: one line of JSON a lane with size, compute and every final metric."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from sae_lightning.core import write_json
from sae_lightning.core.files import atomic_path
from sae_lightning.training.callbacks.base import find, lane_folder, loggers_of
from sae_lightning.training.callbacks.export import Export, Figures, plain
from sae_lightning.training.lane import Lane
from sae_lightning.training.module import SAEModule

Values = dict[str, Any]


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
    first step's request for data; evaluation at the end is not in it. In a bank it is the time of all lanes together.
    A bank's ``metrics.json`` has every lane's under its name; a lane that was dropped has a record with ``failed``.

    record: what a record says of the run; hparams and lane_records: by lane, its settings and what its record adds.
    facts: called at the end: what metrics.json says of the run beside the lanes' figures.
    """

    def __init__(
        self,
        run_dir: str,
        record: Values,
        hparams: Mapping[str, Values],
        lane_records: Mapping[str, Values],
        facts: Callable[[], Values] = dict,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.record = record
        self.hparams = hparams
        self.lane_records = lane_records
        self.facts = facts
        self.summaries: dict[str, Values] = {}
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
        if pl_module.ranks.rank:
            return
        export = find(trainer, Export)
        assert export is not None, "ScalingLog needs the Export callback before it"
        lines = []
        for name, lane in pl_module.every_lane():
            figures = export.figures.get(name)
            metrics = None if figures is None else plain(figures)["heldout"]
            self.summaries[name] = self.summary(name, lane, figures)
            lines.append(json.dumps(self.full_record(name, lane, metrics), allow_nan=False))
            if metrics is not None:
                self._log_hparams(trainer, pl_module, name, metrics)
        with atomic_path(self.run_dir / "records.jsonl") as temporary:
            temporary.write_text("\n".join(lines) + "\n")
        # Last: metrics.json says that the run is complete.
        for name, summary in self.summaries.items():
            if pl_module.is_bank:
                write_json(lane_folder(self.run_dir, pl_module, name) / "metrics.json", summary)
        whole = {"lanes": self.summaries, **self.facts()} if pl_module.is_bank else next(iter(self.summaries.values()))
        write_json(self.run_dir / "metrics.json", whole)

    def summary(self, name: str, lane: Lane, figures: Figures | None) -> Values:
        """Return what metrics.json holds of a lane."""
        tokens, seconds = int(lane.tokens_seen), self._before
        return {
            **({"failed": failure(lane)} if figures is None else plain(figures)),
            "tokens": tokens,
            "seconds": round(seconds, 3),
            "tokens_per_s": round(tokens / seconds, 1) if seconds else None,
            "seed": self.lane_records[name]["seed"],
            **self.facts(),
        }

    def full_record(self, name: str, lane: Lane, metrics: dict[str, float | None] | None) -> Values:
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
            "parameters": sae.n_parameters,
            "tokens": tokens,
            "training_flops": training_flops(sae.d_in, d_out, sae.d_sae, tokens),
            "seconds": round(self._before, 3),
            "dead_after_tokens": lane.dead_after_tokens,
            **self.lane_records[name],
            **({"failed": failure(lane)} if metrics is None else metrics),
        }

    def _log_hparams(self, trainer: L.Trainer, module: SAEModule, name: str, metrics: dict[str, float | None]) -> None:
        final = {f"final/{key}": value for key, value in metrics.items() if value is not None}
        for logger in loggers_of(trainer, module, name):
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(dict(self.hparams[name]), final, step=trainer.global_step)
                logger.experiment.flush()


def failure(lane: Lane) -> str:
    """Return why a lane has no figures."""
    return f"the loss was not finite at step {lane.first_bad()}"

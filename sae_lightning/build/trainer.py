"""From config to Lightning's Trainer: the callbacks of a run, its loggers (one set a lane), precision and steps."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers import Logger

from sae_lightning.build.data import Data
from sae_lightning.build.device import training_device
from sae_lightning.build.heldout import HeldOut
from sae_lightning.build.instantiate import make
from sae_lightning.build.lanes import optim_settings
from sae_lightning.build.names import run_name
from sae_lightning.config import RunConfig, config_text
from sae_lightning.core import Ranks
from sae_lightning.training import AtomicCheckpointIO
from sae_lightning.training.callbacks import (
    ConfigLog,
    Evaluation,
    Export,
    LiveProgress,
    ProgressFile,
    Pruning,
    ScalingLog,
    StopSignal,
)
from sae_lightning.training.strategy import RankStrategy


def build_trainer(
    config: RunConfig,
    lanes: Mapping[str, RunConfig],
    run_dir: Path,
    data: Data,
    heldout: HeldOut,
    facts: Callable[[], dict[str, Any]],
) -> L.Trainer:
    """Return the trainer of a run; ``facts`` is what its metrics.json says beside the figures."""
    ranks, device = Ranks.present(), training_device(config)
    loggers: list[Logger] = []
    for name in lanes if ranks.rank == 0 else ():
        loggers += _loggers(config, run_dir / "lanes" / name if config.bank is not None else run_dir)
    return L.Trainer(
        accelerator=config.trainer.accelerator,
        devices=[torch.cuda.current_device()] if device.type == "cuda" else 1,
        strategy="auto" if ranks.alone else RankStrategy(_own(device), ranks, config.trainer.sharded),
        precision=config.trainer.precision,
        max_steps=config.total_steps,
        max_epochs=-1,
        logger=loggers or False,
        callbacks=_callbacks(config, lanes, run_dir, data, heldout, facts),
        # Who is who has been settled before: Lightning need not look for Slurm or torchrun.
        plugins=[AtomicCheckpointIO(), LightningEnvironment()],
        default_root_dir=run_dir,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10**9,
        profiler=config.trainer.profiler,
    )


def _own(device: torch.device) -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device


def _loggers(config: RunConfig, folder: Path) -> list[Logger]:
    made = []
    for name, node in config.logger.items():
        if node:
            # An empty version keeps TensorBoard's events in one folder; CSV gets a file a sitting: the logger
            # would delete the earlier one when a run is resumed.
            version = "" if name == "tensorboard" else f"sitting-{len(list(folder.glob(f'{name}/sitting-*'))) + 1}"
            made.append(make(node, f"logger.{name}", save_dir=str(folder), name=name, version=version))
    return made


def _callbacks(
    config: RunConfig,
    lanes: Mapping[str, RunConfig],
    run_dir: Path,
    data: Data,
    heldout: HeldOut,
    facts: Callable[[], dict[str, Any]],
) -> list[L.Callback]:
    made: dict[str, L.Callback] = {
        name: make(node, f"callbacks.{name}", run_dir=str(run_dir)) for name, node in config.callbacks.items() if node
    }
    made["evaluation"] = Evaluation(heldout.during, config.evaluation.every_n_steps)
    if config.trial is not None:
        made["pruning"] = Pruning(str(run_dir), config.trial)
    made["config_log"] = ConfigLog({name: config_text(lane) for name, lane in lanes.items()})
    first = Ranks.present().rank == 0  # who shows and writes what is the same for all, by a clock of its own
    if config.progress and first:
        made["progress"] = LiveProgress()
    if first:
        made["progress_file"] = ProgressFile(str(run_dir))
    made["stop_signal"] = StopSignal()
    own = {
        name: {"normalisation": lane.normalise.model_dump(mode="json"), "seed": lane.seed}
        for name, lane in lanes.items()
    }
    made["export"] = Export(str(run_dir), heldout.final, heldout.calibration, heldout.sample, data.metadata, own)
    record = {
        "name": run_name(config),
        "run_dir": run_dir.name,
        "lm": config.lm.name if config.lm else None,
        "sites": (data.metadata["sites"] or {}).get("read"),
        "batch_size": config.data.batch_size,
    }
    lane_records = {name: {"lr": optim_settings(lane).lr, "seed": lane.seed} for name, lane in lanes.items()}
    hparams = {name: _flat(lane.model_dump(mode="json")) for name, lane in lanes.items()}
    made["scaling_log"] = ScalingLog(str(run_dir), record, hparams, lane_records, facts)
    return list(made.values())


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings as dotted keys with plain values, as HParams wants them."""
    if isinstance(value, dict):
        out: dict[str, Any] = {}
        for key, child in value.items():
            if key not in ("_target_", "callbacks", "logger", "paths", "bank", "trial"):
                out |= _flat(child, f"{prefix}.{key}" if prefix else str(key))
        return out
    return {prefix: value if isinstance(value, bool | int | float | str) else str(value)}

"""From config to a run that only has to be started."""

import datetime
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger

from sae_lightning.activations import ActivationSource
from sae_lightning.build.data import Data, Fitted, build_data, pick_device
from sae_lightning.build.heldout import HeldOut
from sae_lightning.build.instantiate import check_node, make, target_of
from sae_lightning.build.lanes import COEFFICIENTS, build_lane, build_objective, optim_settings
from sae_lightning.build.overfit import OneBatch
from sae_lightning.config import Node, RunConfig, check_arguments
from sae_lightning.core import UserError
from sae_lightning.lm.crossentropy import predicted
from sae_lightning.reports.preflight import Preflight
from sae_lightning.sae import initialise
from sae_lightning.sae.selective import SelectiveAutoencoder
from sae_lightning.tokens import decode_window
from sae_lightning.training import ActivationDataModule, AtomicCheckpointIO, SAEModule
from sae_lightning.training.callbacks import ConfigLog, Evaluation, Export, LiveProgress, ScalingLog, StopSignal
from sae_lightning.training.memory import available_memory, check_memory, estimate

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """A run, built and ready: ``trainer.fit(module, datamodule, ckpt_path=checkpoint)``."""

    config: RunConfig
    run_dir: Path
    data: Data
    module: SAEModule
    datamodule: ActivationDataModule
    trainer: L.Trainer
    preflight: Preflight


def run_name(config: RunConfig) -> str:
    """Return the run's name: LM or file, site, architecture, width and k, safe in a path."""
    if config.name:
        name = config.name
    else:
        lm = config.lm.name if config.lm else Path(config.data.path or "activations").stem
        site = (config.sites.read or [f"{config.sites.kind}{config.sites.layer}"])[0] if config.lm else "rows"
        architecture = str(config.sae.get("_target_", "sae")).rsplit(".", 1)[-1].removesuffix("SAE").lower()
        parts = [Path(lm).name, site, architecture, f"f{config.sae.get('d_sae')}"]
        parts += [f"k{config.sae['k']}"] if config.sae.get("k") else []
        name = "_".join(parts)
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", name)


def new_run_dir(config: RunConfig, sweep_dir: str | None = None) -> Path:
    """Return the folder of a new run; raise UserError when it holds a run already."""
    if config.paths.run_dir:
        folder = Path(config.paths.run_dir).expanduser()
    elif sweep_dir:
        folder = Path(sweep_dir)
    else:
        stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        folder = Path(config.paths.outputs).expanduser() / "runs" / f"{stamp}_{run_name(config)}"
    folder = folder.resolve()
    if not config.paths.run_dir:
        base, number = folder, 1
        while (folder / "config.yaml").exists():  # two runs of one second
            number += 1
            folder = base.with_name(f"{base.name}_{number}")
    if (folder / "config.yaml").exists():
        raise UserError(
            f"paths.run_dir={folder}: holds a run already; continue it with resume={folder} or name another"
        )
    return folder


def check_nodes(config: RunConfig) -> None:
    """Check every ``_target_`` node against its class, before anything slow is loaded. Raises UserError."""
    # The converted values take the raw ones' place: a quoted number is a number from here on.
    sae = {name: value for name, value in config.sae.items() if name not in COEFFICIENTS}
    config.sae.update(check_node(sae, "sae", {"d_in", "d_out"}))
    if (k := config.sae.get("k") or 0) > config.sae["d_sae"]:
        raise UserError(f"sae.k={k}: must be at most sae.d_sae={config.sae['d_sae']}; lower sae.k or raise sae.d_sae")
    build_objective(config).check_reconstructs()
    if config.trainer.accelerator not in ("auto", "cpu") and not accelerator_there(config.trainer.accelerator):
        raise UserError(
            f"trainer.accelerator={config.trainer.accelerator}: this machine has none; use trainer.accelerator=auto"
        )
    check_arguments(initialise, config.init, "init", {"sae", "sample_x", "sample_y", "seed"})
    for name, node in config.callbacks.items():
        if node:
            check_kind(node, f"callbacks.{name}", L.Callback)
            check_node(node, f"callbacks.{name}", {"run_dir"})
    for name, node in config.logger.items():
        if node:
            check_kind(node, f"logger.{name}", Logger)
            check_node(node, f"logger.{name}", {"save_dir", "name", "version"})
    if config.data.source is not None:
        check_node(config.data.source, "data.source", set())
    if not config.callbacks.get("dead_features"):
        raise UserError("callbacks.dead_features=null: it counts the tokens of a run; leave it in")


def check_kind(node: Node, where: str, kind: type) -> None:
    """Raise UserError unless a node's target is a class of this kind."""
    target = target_of(node, where)
    if not (isinstance(target, type) and issubclass(target, kind)):
        raise UserError(f"{where}._target_={node['_target_']}: must be a {kind.__name__}; name a class of that kind")


def accelerator_there(name: str) -> bool:
    """Tell whether the machine has the accelerator of this name."""
    return torch.backends.mps.is_available() if name == "mps" else torch.cuda.is_available()


def build_run(config: RunConfig, run_dir: Path, text: str = "", *, resume: bool = False) -> Run:
    """Build everything. Raises UserError for whatever cannot work, before anything is trained."""
    check_nodes(config)
    L.seed_everything(config.seed, verbose=False)
    fitted = Fitted.load(run_dir) if resume else None
    data = build_data(config, fitted)
    preflight = _preflight(config, data)
    lane = build_lane(config, data, fitted)
    if fitted is None:
        Fitted(data.mask, data.stats, lane.normaliser.centre).save(run_dir)
    module = SAEModule({"sae": lane}, {"sae": optim_settings(config)}, config.total_steps)
    source: ActivationSource = OneBatch(data.source) if config.trainer.overfit_batch else data.source
    datamodule = ActivationDataModule(source, config.total_steps)
    heldout = HeldOut(data, config.evaluation, config.data.context_length)
    trainer = _trainer(config, run_dir, _callbacks(config, run_dir, data, heldout, text))
    preflight.centred = lane.normaliser.centre
    return Run(config, run_dir, data, module, datamodule, trainer, preflight)


def _preflight(config: RunConfig, data: Data) -> Preflight:
    device = torch.device(
        pick_device("auto" if config.trainer.accelerator in ("auto", "gpu") else config.trainer.accelerator)
    )
    sparse = issubclass(target_of(config.sae, "sae"), SelectiveAutoencoder)
    itemsize = {"float32": 4}.get(config.lm.dtype if config.lm else "float32", 2)
    need = estimate(
        d_in=data.source.d_in,
        d_out=data.source.d_out,
        d_sae=config.sae["d_sae"],
        batch_size=config.data.batch_size,
        buffer_rows=config.data.buffer_tokens if config.lm else 0,
        row_bytes=data.source.d_in * itemsize,
        sparse=sparse,
        lm_bytes=data.lm.n_bytes() if data.lm else 0,
    )
    check_memory(need, device)
    check = Preflight(stats=data.stats, need=need, available=available_memory(device), centred=False)
    if data.lm is not None and data.train_windows is not None:
        first = data.train_windows.batch([0])
        check.window = decode_window(data.lm.tokenizer, first)
        losses = data.lm.loss(data.lm.logits(first.tokens), first.tokens, first.mask)
        check.cross_entropy = float(losses.sum() / predicted(first.mask).sum())
        check.n_windows = len(data.train_windows)
        check.n_documents = len(data.train_windows.documents)
    return check


def _callbacks(config: RunConfig, run_dir: Path, data: Data, heldout: HeldOut, text: str) -> list[L.Callback]:
    made = {
        name: make(node, f"callbacks.{name}", run_dir=str(run_dir)) for name, node in config.callbacks.items() if node
    }
    made["evaluation"] = Evaluation(heldout.during, config.evaluation.every_n_steps)
    made["config_log"] = ConfigLog(text)
    if config.progress:
        made["progress"] = LiveProgress()
    made["stop_signal"] = StopSignal()
    normalisation = config.normalise.model_dump(mode="json")
    metadata = {**data.metadata, "normalisation": normalisation, "seed": config.seed}
    made["export"] = Export(str(run_dir), heldout.final, heldout.calibration, metadata)
    record = {
        "name": run_name(config),
        "run_dir": run_dir.name,
        "lm": config.lm.name if config.lm else None,
        "sites": (data.metadata["sites"] or {}).get("read"),
        "batch_size": config.data.batch_size,
        "lr": optim_settings(config).lr,
    }
    made["scaling_log"] = ScalingLog(str(run_dir), config.seed, _flat(config.model_dump(mode="json")), record)
    return list(made.values())


def _trainer(config: RunConfig, run_dir: Path, callbacks: list[L.Callback]) -> L.Trainer:
    loggers = []
    for name, node in config.logger.items():
        if node:
            # An empty version keeps TensorBoard's events in one folder; CSV gets a file a sitting: the logger
            # would delete the earlier one when a run is resumed.
            version = "" if name == "tensorboard" else f"sitting-{len(list(run_dir.glob(f'{name}/sitting-*'))) + 1}"
            loggers.append(make(node, f"logger.{name}", save_dir=str(run_dir), name=name, version=version))
    return L.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        precision=config.trainer.precision,
        max_steps=config.total_steps,
        max_epochs=-1,
        logger=loggers or False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=run_dir,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10**9,
        profiler=config.trainer.profiler,
    )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings as dotted keys with plain values, as HParams wants them."""
    if isinstance(value, dict):
        out: dict[str, Any] = {}
        for key, child in value.items():
            if key not in ("_target_", "callbacks", "logger", "paths"):
                out |= _flat(child, f"{prefix}.{key}" if prefix else str(key))
        return out
    return {prefix: value if isinstance(value, bool | int | float | str) else str(value)}

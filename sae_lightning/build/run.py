"""From config to a run that only has to be started."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch

from sae_lightning.activations import ActivationSource
from sae_lightning.build.bank import SOLO
from sae_lightning.build.checks import check_nodes
from sae_lightning.build.data import Data, Fitted, build_data
from sae_lightning.build.device import pick_device
from sae_lightning.build.execution import decided
from sae_lightning.build.heldout import HeldOut
from sae_lightning.build.instantiate import target_of
from sae_lightning.build.lanes import build_lane, optim_settings
from sae_lightning.build.overfit import OneBatch
from sae_lightning.build.trainer import build_trainer
from sae_lightning.config import RunConfig, save_config
from sae_lightning.lm.crossentropy import predicted
from sae_lightning.reports.preflight import Preflight
from sae_lightning.sae.selective import SelectiveAutoencoder
from sae_lightning.tokens import decode_window
from sae_lightning.training import ActivationDataModule, SAEModule
from sae_lightning.training.memory import MemoryNeed, available_memory, check_memory, estimate


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


def build_run(
    config: RunConfig, run_dir: Path, lanes: Mapping[str, RunConfig] | None = None, *, resume: bool = False
) -> Run:
    """Build everything. lanes: of a bank, each lane's own config (``bank.lane_configs``).

    Raises UserError for whatever cannot work, before anything is trained.
    """
    lanes = lanes or {SOLO: config}
    check_nodes(config)
    L.seed_everything(config.seed, verbose=False)
    folders = {name: run_dir / "lanes" / name if config.bank is not None else run_dir for name in lanes}
    fitted = {name: Fitted.load(folder) for name, folder in folders.items()} if resume else {}
    data = build_data(config, next(iter(fitted.values()), None))
    preflight = _preflight(config, lanes, data)
    built = {name: build_lane(lane, data, fitted.get(name)) for name, lane in lanes.items()}
    if not resume:
        for name, lane in built.items():
            kept, product = data.cache is not None, decided(lane.sae)
            Fitted(data.mask, data.stats, lane.normaliser.centre, kept, product).save(folders[name])
            if config.bank is not None:
                save_config(lanes[name], folders[name])
    settings = {name: optim_settings(lane) for name, lane in lanes.items()}
    module = SAEModule(built, settings, config.total_steps, bank=config.bank is not None)
    source: ActivationSource = OneBatch(data.source) if config.trainer.overfit_batch else data.source
    datamodule = ActivationDataModule(source, config.total_steps)
    heldout = HeldOut(data, config.evaluation, config.data.context_length)
    trainer = build_trainer(config, lanes, run_dir, data, heldout, data.facts)
    preflight.centred = next(iter(built.values())).normaliser.centre
    return Run(config, run_dir, data, module, datamodule, trainer, preflight)


def _preflight(config: RunConfig, lanes: Mapping[str, RunConfig], data: Data) -> Preflight:
    device = torch.device(
        pick_device("auto" if config.trainer.accelerator in ("auto", "gpu") else config.trainer.accelerator)
    )
    need = _need(config, lanes, data)
    check_memory(need, device)
    check = Preflight(stats=data.stats, need=need, available=available_memory(device), centred=False)
    if data.train_windows is not None:
        check.n_windows = len(data.train_windows)
        check.n_documents = len(data.train_windows.documents)
        check.cache = data.cache
    if data.lm is not None and data.train_windows is not None and data.cache is None:
        # With kept activations the language model need not be read at all.
        first = data.train_windows.batch([0])
        check.window = decode_window(data.lm.tokenizer, first)
        losses = data.lm.loss(data.lm.logits(first.tokens), first.tokens, first.mask)
        check.cross_entropy = float(losses.sum() / predicted(first.mask).sum())
    return check


def _need(config: RunConfig, lanes: Mapping[str, RunConfig], data: Data) -> MemoryNeed:
    itemsize = {"float32": 4}.get(config.lm.dtype if config.lm else "float32", 2)
    buffered = config.data.buffer_tokens if config.lm and data.cache is None else 0
    parts = [
        estimate(
            d_in=data.source.d_in,
            d_out=data.source.d_out,
            d_sae=lane.sae["d_sae"],
            batch_size=config.data.batch_size,
            buffer_rows=buffered if number == 0 else 0,
            row_bytes=data.source.d_in * itemsize,
            sparse=issubclass(target_of(lane.sae, "sae"), SelectiveAutoencoder),
            lm_bytes=data.lm.n_bytes() if data.lm and number == 0 else 0,
            block_bytes=int(lane.trainer.pre_acts_mb * 2**20),
        )
        for number, lane in enumerate(lanes.values())
    ]
    return sum(parts[1:], parts[0])

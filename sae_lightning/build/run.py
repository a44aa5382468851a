"""From config to a run that only has to be started."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L

from sae_lightning.activations import ActivationSource, StreamSource
from sae_lightning.activations.numbered import NumberedSource
from sae_lightning.build.bank import SOLO
from sae_lightning.build.checks import check_nodes
from sae_lightning.build.data import Data, Fitted, build_data
from sae_lightning.build.device import row_ranks, training_device
from sae_lightning.build.execution import decided
from sae_lightning.build.heldout import HeldOut
from sae_lightning.build.instantiate import target_of
from sae_lightning.build.lanes import build_lane, optim_settings
from sae_lightning.build.overfit import OneBatch
from sae_lightning.build.through import build_downstream
from sae_lightning.build.trainer import build_trainer
from sae_lightning.config import RunConfig, save_config
from sae_lightning.core import Ranks
from sae_lightning.lm import site_layer
from sae_lightning.lm.crossentropy import predicted
from sae_lightning.reports.preflight import Preflight
from sae_lightning.sae.selective import SelectiveAutoencoder
from sae_lightning.tokens import decode_window
from sae_lightning.training import ActivationDataModule, SAEModule
from sae_lightning.training.memory import MemoryNeed, available_memory, check_memory, estimate, run_bytes


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
    ranks = Ranks.present()
    data = build_data(config, next(iter(fitted.values()), None))
    if isinstance(data.source, NumberedSource | StreamSource):
        data.source.spread(row_ranks(config))
    preflight = _preflight(config, lanes, data)
    built = {name: build_lane(lane, data, fitted.get(name)) for name, lane in lanes.items()}
    if not resume and ranks.rank == 0:
        for name, lane in built.items():
            kept, product = data.cache is not None, decided(lane.sae)
            Fitted(data.mask, data.stats, lane.normaliser.centre, kept, product).save(folders[name])
            if config.bank is not None:
                save_config(lanes[name], folders[name])
    settings = {name: optim_settings(lane) for name, lane in lanes.items()}
    downstream = None
    if config.objective.end_to_end and data.heldout is not None:
        objectives = [lane.objective for lane in built.values()]
        downstream = build_downstream(data, data.heldout.sites, objectives)
    bank = config.bank is not None
    module = SAEModule(
        built,
        settings,
        config.total_steps,
        bank=bank,
        downstream=downstream,
        ranks=ranks,
        sharded=config.trainer.sharded,
    )
    source: ActivationSource = OneBatch(data.source) if config.trainer.overfit_batch else data.source
    datamodule = ActivationDataModule(source, config.total_steps, ranks, sharded=config.trainer.sharded)
    heldout = HeldOut(data, config.evaluation, config.data.context_length)
    facts = data.facts if ranks.alone else lambda: {**data.facts(), "processes": ranks.world}
    trainer = build_trainer(config, lanes, run_dir, data, heldout, facts)
    preflight.centred = next(iter(built.values())).normaliser.centre
    return Run(config, run_dir, data, module, datamodule, trainer, preflight)


def _preflight(config: RunConfig, lanes: Mapping[str, RunConfig], data: Data) -> Preflight:
    device = training_device(config)
    need = _need(config, lanes, data)
    # On a CPU the processes of a machine share its memory.
    together = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" and not Ranks.present().alone else 1
    check_memory(sum([need] * (together - 1), need), device)
    check = Preflight(stats=data.stats, need=need, available=available_memory(device), centred=False)
    if data.train_windows is not None:
        check.n_windows = len(data.train_windows)
        check.n_documents = len(data.train_windows.documents)
        check.cache = data.cache
    if Ranks.present().rank == 0 and data.lm is not None and data.train_windows is not None and data.cache is None:
        # With kept activations the language model need not be read at all.
        first = data.train_windows.batch([0])
        check.window = decode_window(data.lm.tokenizer, first)
        losses = data.lm.loss(data.lm.logits(first.tokens), first.tokens, first.mask)
        check.cross_entropy = float(losses.sum() / predicted(first.mask).sum())
    return check


def _need(config: RunConfig, lanes: Mapping[str, RunConfig], data: Data) -> MemoryNeed:
    itemsize = {"float32": 4}.get(config.lm.dtype if config.lm else "float32", 2)
    through = config.objective.end_to_end
    buffered = config.data.buffer_tokens if config.lm and data.cache is None and not through else 0
    # What one of several processes has: its features, or its rows and a copy of all gradients to be added up.
    rows, features = row_ranks(config).world, config.trainer.devices if config.trainer.sharded else 1
    parts = [
        estimate(
            d_in=data.source.d_in,
            d_out=data.source.d_out,
            d_sae=lane.sae["d_sae"] // features,
            batch_size=config.data.batch_size // rows,
            buffer_rows=buffered // rows if number == 0 else 0,
            row_bytes=(data.source.d_in + (data.source.d_out if data.layout.transcodes else 0)) * itemsize,
            sparse=issubclass(target_of(lane.sae, "sae"), SelectiveAutoencoder),
            lm_bytes=data.lm.n_bytes() if data.lm and number == 0 else 0,
            block_bytes=int(lane.trainer.pre_acts_mb * 2**20),
        )
        for number, lane in enumerate(lanes.values())
    ]
    need = sum(parts[1:], parts[0])
    if through and data.lm is not None and data.heldout is not None:
        layers = [layer for site in data.heldout.sites.write if (layer := site_layer(site)) is not None]
        above = data.lm.n_layers - min(layers, default=0)
        positions = config.data.batch_size // rows * len(lanes)  # each lane's run waits for the one backward pass
        size = run_bytes(positions, data.lm.vocab_size, data.lm.d_model, above, itemsize)
        need = replace(need, through=size)
    return replace(need, gradients=2 * need.gradients) if rows > 1 else need

"""A training run from plain objects, as the README shows it, for tests that look at what was learnt."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from sae_lightning.activations import FileSource, Normaliser
from sae_lightning.core import Schedule
from sae_lightning.losses import L1, AuxK, LossTerm, Objective, Reconstruction
from sae_lightning.sae import SparseAutoencoder, fold, initialise
from sae_lightning.training import ActivationDataModule, AtomicCheckpointIO, Lane, OptimSettings, SAEModule
from sae_lightning.training.callbacks import DeadFeatures, DecoderNorm, GradientProjection


def terms_for(sae: SparseAutoencoder, l1: float = 5.0) -> dict[str, LossTerm]:
    """Return the published loss of an architecture."""
    if sae.name == "standard":
        return {"reconstruction": Reconstruction(), "l1": L1(Schedule(l1, "warmup", 0.05))}
    return {"reconstruction": Reconstruction(normalise="variance"), "aux_k": AuxK()}


@dataclass
class PlainRun:
    """A run that only has to be started; its lane is named ``sae``."""

    trainer: L.Trainer
    module: SAEModule
    datamodule: ActivationDataModule
    lane: Lane

    def fit(self, checkpoint: Path | None = None) -> "PlainRun":
        """Train to the end (from a checkpoint, if one is given)."""
        self.trainer.fit(self.module, datamodule=self.datamodule, ckpt_path=checkpoint, weights_only=True)
        return self


def prepare(
    sae: SparseAutoencoder,
    rows: np.ndarray,
    folder: Path,
    *,
    steps: int,
    lr: float,
    batch_size: int = 512,
    terms: Mapping[str, LossTerm] | None = None,
    callbacks: list[L.Callback] | None = None,
    centre: bool | str = "auto",
    clip: float | None = 1.0,
    source: type[FileSource] = FileSource,
    logger: Any = False,
) -> PlainRun:
    """Build a run of ``sae`` on ``rows`` with exactly these callbacks."""
    path = folder / "rows.npy"
    np.save(path, rows)
    read = source(path, batch_size, seed=0)
    sample = read.sample(4096)
    normaliser = Normaliser.fit(sample, "sqrt_d", centre)  # type: ignore[arg-type]
    initialise(sae, normaliser.apply(sample), seed=0)
    lane = Lane(sae, Objective(terms or terms_for(sae)), normaliser)
    module = SAEModule({"sae": lane}, {"sae": OptimSettings(lr=lr, clip=clip)}, steps)
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        # Lightning puts a checkpoint callback of its own where there is none and this is true.
        enable_checkpointing=any(isinstance(c, L.pytorch.callbacks.Checkpoint) for c in callbacks or []),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        log_every_n_steps=10**9,
    )
    return PlainRun(trainer, module, ActivationDataModule(read, steps), lane)


def fit(
    sae: SparseAutoencoder,
    rows: np.ndarray,
    folder: Path,
    *,
    steps: int,
    lr: float,
    batch_size: int = 512,
    l1: float = 5.0,
    dead_after: int | None = None,
    callbacks: list[L.Callback] | None = None,
    centre: bool | str = "auto",
) -> tuple[Lane, SparseAutoencoder]:
    """Train ``sae`` on ``rows``; return its lane and the folded SAE."""
    policy = [GradientProjection(), DecoderNorm(), DeadFeatures(dead_after or "auto"), *(callbacks or [])]
    run = prepare(
        sae,
        rows,
        folder,
        steps=steps,
        lr=lr,
        batch_size=batch_size,
        terms=terms_for(sae, l1),
        callbacks=policy,
        centre=centre,
    ).fit()
    run.lane.eval()
    return run.lane, fold(sae, run.lane.normaliser)


def mmcs(sae: SparseAutoencoder, directions: np.ndarray) -> float:
    """Return the mean over true directions of the largest cosine with a decoder row."""
    decoder = torch.nn.functional.normalize(sae.W_dec.detach().double(), dim=1)
    true = torch.nn.functional.normalize(torch.from_numpy(directions).double(), dim=1)
    return float((true @ decoder.T).max(dim=1).values.mean())

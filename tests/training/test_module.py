"""The module: a bank of lanes trains each as its solo run would, and clips each on its own."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from sae_lightning.activations import FileSource, Normaliser
from sae_lightning.losses import Objective
from sae_lightning.sae import SparseAutoencoder, StandardSAE, TopKSAE, initialise
from sae_lightning.training import ActivationDataModule, Lane, OptimSettings, SAEModule
from sae_lightning.training.callbacks import DeadFeatures, DecoderNorm, GradientProjection
from tests.conftest import planted
from tests.training.plain import terms_for

STEPS = 12
SETTINGS = {
    "first": OptimSettings(lr=3e-3, warmup=0.5, decay=0.0, clip=0.05),
    "second": OptimSettings(lr=1e-2, warmup=0.0, decay=1.0, final=0.1, clip=None, betas=(0.0, 0.99)),
}


def build(name: str) -> SparseAutoencoder:
    return TopKSAE(16, 24, k=3) if name == "first" else StandardSAE(16, 40)


def train(path: Path, names: list[str]) -> SAEModule:
    source = FileSource(path, 32, seed=0)
    sample = source.sample(500)
    lanes = {}
    for name in names:
        normaliser = Normaliser.fit(sample)
        sae = build(name)
        initialise(sae, normaliser.apply(sample), seed=1)
        lanes[name] = Lane(sae, Objective(terms_for(sae)), normaliser)
    module = SAEModule(lanes, {name: SETTINGS[name] for name in names}, STEPS)
    trainer = L.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[GradientProjection(), DecoderNorm(), DeadFeatures()],
        default_root_dir=path.parent,
    )
    trainer.fit(module, datamodule=ActivationDataModule(source, STEPS))
    return module


def test_each_lane_of_a_bank_is_bit_equal_to_its_solo_run(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, planted(500, d=16, n_true=32, p=0.06)[0])
    bank = dict(train(path, ["first", "second"]).each_lane())
    for name in SETTINGS:
        ((_, solo),) = train(path, [name]).each_lane()
        state = solo.state_dict()
        assert bank[name].state_dict().keys() == state.keys()
        for key, value in bank[name].state_dict().items():
            assert torch.equal(value, state[key]), (name, key)
    assert not torch.equal(bank["first"].sae.b_dec, bank["second"].sae.b_dec)


def test_clipping_is_per_lane_and_remembers_the_norm_before_it() -> None:
    lanes = {name: Lane(s := build(name), Objective(terms_for(s)), Normaliser("none", False, 16)) for name in SETTINGS}
    module = SAEModule(lanes, SETTINGS, STEPS)
    for lane in lanes.values():
        for p in lane.sae.parameters():
            p.grad = torch.full_like(p, 0.5)
    adam = module.configure_optimizers()["optimizer"]
    adam.step()
    for (name, lane), norm in zip(lanes.items(), adam.grad_norms, strict=True):
        n = sum(p.numel() for p in lane.sae.parameters())
        before = 0.5 * n**0.5
        after = torch.cat([p.grad.flatten() for p in lane.sae.parameters() if p.grad is not None]).norm()
        assert float(norm) == pytest.approx(before, rel=1e-5)
        assert float(after) == pytest.approx(0.05 if name == "first" else before, rel=1e-4)


def test_a_run_of_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="total_steps=0"):
        SAEModule({}, {}, 0)

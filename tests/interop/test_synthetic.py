"""Synthetic data and ground truth against sae-lens's own: the same formulas give the same figures."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_lightning.activations.synthetic import SyntheticModel
from sae_lightning.activations.synthetic.settings import Correlation, FiringProbability, Hierarchy, Magnitude
from sae_lightning.sae import JumpReLUSAE
from sae_lightning.studies import Subject
from sae_lightning.studies.evaluation import GroundTruthStudy
from tests.interop.conftest import PEER, PYTHON

SETTINGS: dict[str, Any] = {
    "num_features": 300,
    "hidden_dim": 32,
    "firing_probability": {"exponent": 0.5, "max_prob": 0.4, "min_prob": 0.01},
    "hierarchy": {
        "total_root_nodes": 8,
        "branching_factor": 3,
        "max_depth": 3,
        "mutually_exclusive_portion": 1.0,
        "compensate_probabilities": True,
    },
    "correlation": {"rank": 8, "correlation_scale": 0.15},
    "std_firing_magnitudes": 0.3,
    "mean_firing_magnitudes": {"start": 3.0, "end": 2.0},
    "blocks": 15,
}


@pytest.fixture(scope="module")
def ours() -> SyntheticModel:
    return SyntheticModel(
        SETTINGS["num_features"],
        SETTINGS["hidden_dim"],
        firing_probability=FiringProbability(type="zipfian", **SETTINGS["firing_probability"]),
        hierarchy=Hierarchy(**SETTINGS["hierarchy"]),
        correlation=Correlation(**SETTINGS["correlation"]),
        std_firing_magnitudes=SETTINGS["std_firing_magnitudes"],
        mean_firing_magnitudes=Magnitude(type="linear", **SETTINGS["mean_firing_magnitudes"]),
    )


@pytest.fixture(scope="module")
def sae(ours: SyntheticModel) -> JumpReLUSAE:
    """A poor SAE: noisy directions, one latent dead, a threshold that misses some firings."""
    generator = torch.Generator().manual_seed(0)
    sae = JumpReLUSAE(32, 100).eval()
    noisy = ours.directions[:100] + 0.1 * torch.randn(100, 32, generator=generator)
    bias = torch.zeros(100).index_fill(0, torch.tensor([7]), -1e3)
    weights = {
        "W_enc": noisy.T,
        "W_dec": noisy,
        "b_dec": ours.bias,
        "b_enc": bias,
        "log_theta": torch.full((100,), 0.3),
    }
    sae.load_state_dict(sae.state_dict() | weights)
    return sae


@pytest.fixture(scope="module")
def theirs(ours: SyntheticModel, sae: JumpReLUSAE, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("synthetic")
    x, truth = ours.blocks(range(6))
    with torch.no_grad():
        out = sae(x)
    arrays = {
        "x": x,
        "truth": truth.dense(),
        "features": out.features.dense(),
        "y_hat": out.y_hat,
        "decoder": sae.W_dec.detach(),
        "directions": ours.directions,
    }
    np.savez(folder / "in.npz", settings=json.dumps(SETTINGS), **{k: v.numpy() for k, v in arrays.items()})
    assert PYTHON is not None
    command = [PYTHON, "-W", "ignore", PEER / "saelens_synthetic.py", folder / "in.npz", folder / "out.npz"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(folder / "out.npz"))


def test_the_scores_are_those_of_their_scorer(ours: SyntheticModel, sae: JumpReLUSAE, theirs: dict[str, Any]) -> None:
    subject = Subject(sae, windows=range(6), truth=ours)
    values = GroundTruthStudy(draws=100, show_progress=False).run(subject).values
    for name, score in json.loads(str(theirs["scores"])).items():
        assert values[name] == pytest.approx(score, abs=2e-6), name
    assert 0.1 < (values["f1"] or 0) < 0.9


def test_the_generator_has_their_probabilities_and_their_rates(ours: SyntheticModel, theirs: dict[str, Any]) -> None:
    np.testing.assert_allclose(ours.firing_probabilities, theirs["probabilities"], atol=1e-6)
    n_ours, n_theirs = 60 * 1024, 4096 * SETTINGS["blocks"]
    rates = torch.stack([ours.block(i)[1].counts() for i in range(60)]).sum(0).numpy() / n_ours
    gap = (rates - theirs["rates"]) / np.sqrt((rates + theirs["rates"]) / 2 * (1 / n_ours + 1 / n_theirs))
    free = np.r_[0:8, ours.forest.n_inside : 300]
    assert np.abs(gap[free]).max() < 4.5, "features without a parent have the rates they are given"
    # Below parents the random correlations, which differ, have a say; on the whole they do not.
    for level in ours.forest.count[: ours.forest.n_roots], ours.forest.count:
        inside = slice(8, 8 + int(level.sum()))
        assert rates[inside].sum() == pytest.approx(theirs["rates"][inside].sum(), rel=0.05)

"""Training on synthetic data: from config to a source, and the command as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_lightning import command as hydra_command
from sae_lightning.activations.synthetic import SyntheticSource, ToySuperposition, planted_model
from sae_lightning.build import build_data, run_name
from sae_lightning.build.data import Fitted
from sae_lightning.config import RunConfig, validate
from sae_lightning.sae import load_sae
from tests.conftest import Command

SMALL = [
    "data.synthetic.num_features=48",
    "data.synthetic.hidden_dim=16",
    "data.synthetic.hierarchy.total_root_nodes=4",
    "data.synthetic.orthogonalization=null",
    "data.synthetic.correlation.rank=3",
    "data.batch_size=256",
    "sae.d_sae=32",
    "sae.k=4",
]

FEW = ["data.synthetic.num_features=64", "data.synthetic.hidden_dim=32"]


def config(*overrides: str) -> RunConfig:
    return validate(hydra_command.plain(hydra_command.compose("train", ["data=synthetic", *SMALL, *overrides])))


def test_data_synthetic_needs_nothing_else_on_the_command_line() -> None:
    found = validate(hydra_command.plain(hydra_command.compose("train", ["data=synthetic"])))
    assert found.lm is None
    assert run_name(found) == "synthetic_rows_batchtopk_f4608_k32"
    toy = validate(hydra_command.plain(hydra_command.compose("train", ["data=toy_superposition"])))
    assert toy.lm is None


def test_a_run_reads_the_training_stream_and_is_measured_on_another() -> None:
    data = build_data(config("seed=3"))
    assert isinstance(data.source, SyntheticSource)
    x = next(iter(data.source)).x
    model = data.source.model
    assert torch.equal(x, model.block(0, "train", 3)[0][:256])
    held, calibration = data.heldout_rows(2000).x, data.calibration_rows(1500).x
    assert torch.equal(held[:1024], model.block(0)[0])
    every = torch.cat([x, held, calibration])
    fired = every[(every - model.bias).norm(dim=1) > 1e-3]  # rows without any firing are all the bias
    assert len(fired) > 2000
    assert len(torch.unique(fired, dim=0)) == len(fired)
    # Every run on the model is measured on the same rows, whatever its seed and the order of its data.
    other = build_data(config("seed=4", "data.seed=9"))
    assert torch.equal(other.heldout_rows(2000).x, held)
    assert not torch.equal(next(iter(other.source)).x, x)
    assert data.sample is not None
    assert len(data.sample) == config().normalise.sample_tokens
    resumed = build_data(config("seed=3"), Fitted(None, data.stats, True))
    assert resumed.sample is None
    assert resumed.stats == data.stats


def test_the_export_rebuilds_the_data_and_the_truth_has_been_found(command: Command, tmp_path: Path) -> None:
    done = command("train", "data=synthetic", *SMALL, "tokens=60000", f"paths.run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    sae = load_sae(tmp_path / "run")
    said = json.loads(json.dumps(sae.metadata["data"]["synthetic"]))
    model = planted_model(said)
    built = build_data(config()).source
    assert isinstance(built, SyntheticSource)
    assert model.fingerprint == built.model.fingerprint
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    x, _ = model.blocks(range(8))
    with torch.no_grad():
        error = (sae(x).y_hat - x).square().sum()
    fvu = float(error / (x - x.mean(0)).square().sum())
    assert fvu == pytest.approx(metrics["heldout"]["fvu"], abs=0.03)
    # Far nearer than random directions come (0.45): the frequent features have been found.
    cosines = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1) @ model.directions.T
    assert float(cosines.max(0).values[:8].mean()) > 0.65


def test_a_stopped_run_goes_on_with_the_same_bits(command: Command, tmp_path: Path) -> None:
    quick = [
        "data=synthetic",
        *SMALL,
        "tokens=10240",
        "callbacks.checkpoints.every_n_steps=10",
        "evaluation.tokens=512",
    ]
    for name in ("whole", "parts"):
        done = command("train", *quick, f"paths.run_dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
    # Take the end away: what is left is a run that was stopped after twenty steps.
    (tmp_path / "parts" / "metrics.json").unlink()
    checkpoints = sorted((tmp_path / "parts" / "checkpoints").glob("step-*"))
    assert len(checkpoints) > 1
    checkpoints[-1].unlink()
    done = command("train", f"resume={tmp_path / 'parts'}")
    assert done.returncode == 0, done.stderr
    one, other = (load_sae(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["lm=tiny"], ["lm", "leave lm= out"]),
        (["data.synthetic.num_features=0"], ["data.synthetic.num_features=0"]),
        (["data.synthetic.hierarchy.max_depth=0"], ["data.synthetic.hierarchy.max_depth=0"]),
        (["data.synthetic.mean_firing_magnitudes.start=-1"], ["mean_firing_magnitudes.start=-1"]),
        (["data.synthetic.mean_firing_magnitudes={type: cubic}"], ["'cubic'", "linear"]),
        (["data.synthetic.firing_probability.min_prob=0.9"], ["min_prob=0.9", "max_prob=0.4"]),
        (["data.synthetic.nmu_features=9"], ["data.synthetic.nmu_features", "unknown key"]),
        (["data.synthetic._target_=os.getcwd"], ["data.synthetic._target_=os.getcwd", "PlantedModel"]),
        (["data=news", "data.kind=synthetic", "lm=none"], ["data.synthetic: is needed"]),
        (
            ["data.synthetic.orthogonalization.lr=1e9", *FEW],
            ["orthogonalization.lr=1e+09", "not finite; lower it"],
        ),
        (
            ["data.synthetic.correlation.correlation_scale=1e30", *FEW],
            ["correlation.correlation_scale=1e+30", "no correlation matrix; lower it"],
        ),
        (["data=toy_superposition", "data.synthetic.hidden_dim=300"], ["hidden_dim=300", "num_features=256"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_mistakes_are_told_in_one_line(command: Command, overrides: list[str], words: list[str]) -> None:
    done = command("train", "data=synthetic", *overrides, "sae.d_sae=32", "sae.k=4")
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize("arguments", [("cache", "data=synthetic"), ("tokenize", "data=synthetic", "out=x.bin")])
def test_there_is_nothing_to_cache_or_tokenise(command: Command, arguments: tuple[str, ...]) -> None:
    done = command(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("correlation", ["{rank: 25, correlation_scale: 0.15}", "{rank: 10, correlation_scale: 0.3}"])
def test_ordinary_correlations_can_be_trained_on(command: Command, tmp_path: Path, correlation: str) -> None:
    settings = [*FEW, "data.synthetic.hierarchy=null", f"data.synthetic.correlation={correlation}"]
    run = ["tokens=20480", "sae.d_sae=32", "sae.k=3", f"paths.run_dir={tmp_path / 'run'}"]
    done = command("train", "data=synthetic", *settings, *run)
    assert done.returncode == 0, done.stderr
    model = planted_model(load_sae(tmp_path / "run").metadata["data"]["synthetic"])
    rates = torch.stack([model.block(i)[1].counts() for i in range(20)]).sum(0) / (20 * 1024)
    assert 0.01 < float(rates.mean()) < float(model.firing_probabilities.mean()) * 1.2


def test_a_toy_model_can_be_trained_on(command: Command, tmp_path: Path) -> None:
    toy = ["num_features=24", "hidden_dim=8", "steps=200", "feature_probability=0.05"]
    settings = [f"data.synthetic.{one}" for one in toy]
    run = ["tokens=20480", "data.batch_size=256", "sae.d_sae=24", "sae.k=2", f"paths.run_dir={tmp_path / 'run'}"]
    done = command("train", "data=toy_superposition", *settings, *run)
    assert done.returncode == 0, done.stderr
    model = planted_model(load_sae(tmp_path / "run").metadata["data"]["synthetic"])
    assert isinstance(model, ToySuperposition)
    assert np.isfinite(json.loads((tmp_path / "run" / "metrics.json").read_text())["heldout"]["fvu"])

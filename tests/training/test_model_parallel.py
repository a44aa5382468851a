"""Runs whose processes share the features: as the command runs them, with the language model, checkpoints, exports."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lightning.sae import load_sae
from tests.conftest import tiny_arguments
from tests.training.test_exact_resume import SETTINGS, differences, leaves, perform

SPARSITY = {"standard": ["sae.l1=1"], "gated": ["sae.l1=1"], "jumprelu": ["sae.l0=0.1"]}


def arguments(text_file: Path, model: str) -> list[str]:
    own = SPARSITY.get(model, ["sae.k=4"])
    # Rounded pre-activations have ties, which must be broken alike.
    encoder = "bfloat16" if model == "batch_topk" else "float32"
    return [*tiny_arguments(text_file), *SETTINGS, f"model={model}", f"trainer.encoder={encoder}", *own]


def job(overrides: list[str], run_dir: Path, world: int = 2, **more: Any) -> dict[str, Any]:
    own = [*overrides, f"trainer.devices={world}", "trainer.strategy=model_parallel"]
    return {"overrides": own, "run_dir": str(run_dir), **({"ranks": world} if world > 1 else {}), **more}


def said(run_dir: Path) -> str:
    return "".join(path.read_text() for path in sorted(run_dir.parent.glob(f"{run_dir.name}*.out")))


# The others, and every loss term, in tests/training/test_sharded.py; here what the command adds.
@pytest.mark.parametrize("model", ["batch_topk", "gated"])
def test_two_processes_with_half_of_the_features_each_train_what_one_does(
    model: str, text_file: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    overrides = arguments(text_file, model)
    results = perform([job(overrides, one, 1), job(overrides, two)])
    assert [result["status"] for result in results] == [0, [0, 0]], said(two)
    a, b = load_sae(one), load_sae(two)
    for name, value in a.state_dict().items():
        # Adam's steps of weights whose gradients are nearly 0 follow rounding.
        torch.testing.assert_close(b.state_dict()[name], value, rtol=1e-5, atol=1e-5, msg=name)
    figures, found = (json.loads((run / "metrics.json").read_text()) for run in (one, two))
    assert found["heldout"] == pytest.approx(figures["heldout"], rel=1e-4, abs=1e-5)
    assert found["heldout"]["delta_ce"] is not None
    records = [json.loads((run / "records.jsonl").read_text()) for run in (one, two)]
    assert records[0]["parameters"] == records[1]["parameters"]
    assert (two / "export" / "README.md").read_text().splitlines()[0]


def test_a_killed_run_goes_on_bit_for_bit_and_not_with_another_number(text_file: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    overrides = arguments(text_file, "batch_topk")
    results = perform(
        [
            job(overrides, whole),
            job(overrides, cut, victim=1, kill_after_checkpoint=0.05),
            {"run_dir": str(cut), "ranks": 2, "resume": True},
            {"run_dir": str(cut), "resume": True, "devices": 1},
        ]
    )
    assert results[0]["status"] == [0, 0], said(whole)
    assert results[1]["status"][1] == -9, said(cut)
    assert results[2]["status"] == [0, 0], said(cut)
    assert differences(whole, cut) == []
    other = [sorted((run / "checkpoints").glob("step-*.ckpt.rank-1"))[-1] for run in (whole, cut)]
    first, second = (leaves(torch.load(path, weights_only=True)) for path in other)
    tensors = [key for key, value in first.items() if isinstance(value, torch.Tensor)]
    assert len(tensors) > 10
    assert all(torch.equal(first[key], second[key]) for key in tensors)
    halves = [torch.load(p, weights_only=True)["state_dict"]["lanes.sae.sae.W_dec"] for p in other]
    assert halves[0].shape == (32, 32)
    assert results[3]["status"] == 1
    assert "trainer.devices=1: the checkpoint is that of 2 process(es) with a part of the features each" in said(cut)

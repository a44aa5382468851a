"""A run killed at any moment and resumed ends bit-equal to the run never stopped."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT, tiny_arguments

SETTINGS = [
    "tokens=7680",
    "callbacks.checkpoints.every_n_steps=4",
    "evaluation.every_n_steps=7",
    "progress=false",
    "callbacks.dead_features.after_tokens=256",
    # Weights that are still moving by a schedule when the run is cut.
    "scheduler.decay=0.6",
]


def perform(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run jobs in a process of their own (see killed_runs)."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killed_runs"],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return every tensor and number of a nested checkpoint by its path."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {path: value}
    out: dict[str, Any] = {}
    for key, child in items:
        out |= leaves(child, f"{path}/{key}")
    return out


def differences(a: Path, b: Path) -> list[str]:
    """Return what differs between the last checkpoints of two runs: weights, optimiser, counters, buffer, RNG."""
    states = [
        leaves(torch.load(sorted((run / "checkpoints").glob("step-*.ckpt"))[-1], weights_only=True)) for run in (a, b)
    ]
    ignored = ("seconds", "/loops/")  # wall time; Lightning's own count of loop restarts
    first, second = ({k: v for k, v in state.items() if not any(word in k for word in ignored)} for state in states)
    assert len(first) > 30, sorted(first)
    if first.keys() != second.keys():
        return sorted(first.keys() ^ second.keys())

    def same(x: Any, y: Any) -> bool:
        return torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y

    return [key for key in first if not same(first[key], second[key])]


@pytest.mark.parametrize("model", ["standard", "topk", "batch_topk"])
def test_three_random_kills_and_resumes_end_bit_equal(model: str, text_file: Path, tmp_path: Path) -> None:
    overrides = [*tiny_arguments(text_file), f"model={model}", *SETTINGS]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    seed = random.randrange(2**31)
    delays = [random.Random(seed + i).uniform(0.0, 0.35) for i in range(3)]
    jobs: list[dict[str, Any]] = [{"overrides": overrides, "run_dir": str(whole)}]
    for i, delay in enumerate(delays):
        jobs.append({"overrides": overrides, "run_dir": str(cut), "resume": i > 0, "kill_after_checkpoint": delay})
    jobs.append({"run_dir": str(cut), "resume": True})
    results = perform(jobs)
    assert results[0]["status"] == 0, (tmp_path / "whole.out").read_text()
    assert [r["status"] for r in results[1:4]] == [-signal.SIGKILL] * 3, (seed, delays, results)
    assert results[4]["status"] == 0, (tmp_path / "cut.out").read_text()
    assert differences(whole, cut) == [], (seed, delays)
    name = "export/sae.safetensors"
    assert (whole / name).read_bytes() == (cut / name).read_bytes()
    held_out = [json.loads((run / "metrics.json").read_text())["heldout"] for run in (whole, cut)]
    assert held_out[0] == held_out[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves_and_the_run_goes_on(number: int, text_file: Path, tmp_path: Path) -> None:
    overrides = [*tiny_arguments(text_file), *SETTINGS]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    results = perform(
        [
            {"overrides": overrides, "run_dir": str(whole)},
            {"overrides": overrides, "run_dir": str(cut), "kill_after_checkpoint": 0.05, "signal": int(number)},
            {"run_dir": str(cut), "resume": True},
        ]
    )
    assert [r["status"] for r in results] == [0, 128 + number, 0], (tmp_path / "cut.out").read_text()
    assert results[1]["after_signal"] < 10
    assert "continue with" in (tmp_path / "cut.out").read_text()
    assert differences(whole, cut) == []


def test_a_signal_while_the_buffer_fills_saves_the_state_of_the_last_step(text_file: Path, tmp_path: Path) -> None:
    # Micro-batches of one window make the refills long: most signals fall into one.
    overrides = [*tiny_arguments(text_file), *SETTINGS, "data.micro_batch=1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    results = perform(
        [
            {"overrides": overrides, "run_dir": str(whole)},
            {"overrides": overrides, "run_dir": str(cut), "kill_after_checkpoint": 0.02, "signal": int(signal.SIGTERM)},
            {"run_dir": str(cut), "resume": True},
        ]
    )
    assert [r["status"] for r in results] == [0, 143, 0], (tmp_path / "cut.out").read_text()
    assert differences(whole, cut) == []

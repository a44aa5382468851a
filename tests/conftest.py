"""What tests share: planted data, tiny runs, and the command line as a user runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

# One thread: tensors here are small, and threads of a busy machine would wait for each other at every product.
torch.set_num_threads(1)

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def exact_subnormals() -> Iterator[None]:
    """A run that failed in a test leaves subnormal numbers flushed for the whole process: take it back."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Return a function that runs ``python -m sae_lightning.MODULE ARGS`` in a folder outside the checkout."""

    def run(module: str, *arguments: str, timeout: float = 240, **variables: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | variables
        return subprocess.run(
            [sys.executable, "-m", f"sae_lightning.{module}", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env=env,
            check=False,
        )

    return run


def planted(n: int, *, d: int = 64, n_true: int = 128, p: float = 0.03, shift: float = 0.0, seed: int = 0):
    """Return (rows [n, d], directions [n_true, d]): sparse sums of unit directions with magnitudes around 1."""
    rng = np.random.default_rng(1234)
    directions = rng.standard_normal((n_true, d)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    active = rng.random((n, n_true)) < p
    codes = (active * (1 + 0.25 * np.abs(rng.standard_normal((n, n_true))))).astype(np.float32)
    rows = codes @ directions
    if shift:
        mean = rng.standard_normal(d).astype(np.float32)
        spread = np.sqrt(((rows - rows.mean(0)) ** 2).sum(1).mean())
        rows = rows + shift * spread * mean / np.linalg.norm(mean)
    return rows.astype(np.float32), directions


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """Return a file of 6,000 planted rows of width 16."""
    path = tmp_path / "rows.npy"
    np.save(path, planted(6000, d=16, n_true=32, p=0.06)[0])
    return path


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """Return a jsonl corpus of 200 short made-up texts."""
    rng = np.random.default_rng(0)
    words = ["tree", "river", "stone", "cloud", "window", "garden", "letter", "seven", "green", "slow"]
    path = tmp_path / "corpus.jsonl"
    with path.open("w") as file:
        for i in range(200):
            text = f"text {i}: " + " ".join(rng.choice(words, size=40))
            file.write(json.dumps({"text": text}) + "\n")
    return path


def tiny_arguments(text_file: Path) -> list[str]:
    """Return overrides of a run on the tiny model that takes seconds."""
    return [
        "lm=tiny",
        "sites.layer=1",
        "data=text",
        f"data.path={text_file}",
        "data.context_length=32",
        "data.batch_size=128",
        "data.buffer_tokens=1024",
        "data.micro_batch=4",
        "data.cache=off",
        "sae.d_sae=64",
        "tokens=5120",
        "normalise.sample_tokens=1024",
        "evaluation.every_n_steps=10",
        "evaluation.tokens=256",
        "evaluation.final_tokens=512",
        "evaluation.downstream_tokens=256",
        "callbacks.metrics_log.every_n_steps=5",
    ]


@pytest.fixture
def tiny_run(text_file: Path) -> list[str]:
    """Return the overrides of a tiny run on a small corpus."""
    return tiny_arguments(text_file)

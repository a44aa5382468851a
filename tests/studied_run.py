"""A trained tiny SAE on a small corpus, made once for a module of tests that read it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.conftest import tiny_arguments

WORDS = ["tree", "river", "stone", "cloud", "window", "garden", "letter", "seven", "Zürich", "日本"]
SITE = "blocks.1.hook_resid_post"


def write_corpus(path: Path, n: int = 300, seed: int = 0) -> Path:
    """Write a jsonl corpus of short made-up texts, among them what a page must show as text."""
    rng = np.random.default_rng(seed)
    texts = [f"text {i}: " + " ".join(rng.choice(WORDS, size=int(rng.integers(5, 40)))) for i in range(n)]
    texts[3] = "<script>alert(1)</script> \x00\x07\x1b[31m <img src=x onerror=alert(2)> \u202e & \u2028 done " * 3
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def run(folder: Path, module: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of ours in ``folder``, as a user does."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", f"sae_lightning.{module}", *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def train(folder: Path, name: str = "run", *more: str) -> Path:
    """Train a tiny SAE on ``folder/corpus.jsonl`` and return its run folder."""
    corpus = folder / "corpus.jsonl"
    if not corpus.exists():
        write_corpus(corpus)
    run(
        folder, "train", *tiny_arguments(corpus), "data.heldout_fraction=0.2", f"paths.run_dir={name}", "sae.k=4", *more
    )
    return folder / name

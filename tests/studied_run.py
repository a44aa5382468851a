"""A trained tiny SAE on a small corpus, made once for a module of tests that read it."""

import contextlib
import importlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra

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


def run_here(folder: Path, module: str, *arguments: str) -> tuple[int, str, str]:
    """Run a command of ours in this process, which has imported everything; return (exit code, stdout, stderr)."""
    entry = importlib.import_module(f"sae_lightning.{module}")
    out, err, code = io.StringIO(), io.StringIO(), 0
    root, ours = logging.getLogger(), logging.getLogger("sae_lightning")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    GlobalHydra.instance().clear()
    try:
        with (
            contextlib.chdir(folder),
            mock.patch.object(sys, "argv", [module, *arguments]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            entry.main()
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        # The command logs to this test's stderr, and flushes subnormal numbers while it trains.
        root.handlers[:] = handlers
        root.setLevel(levels[0]), ours.setLevel(levels[1])
        torch.set_flush_denormal(False)
    return code, out.getvalue(), err.getvalue()


def train(folder: Path, name: str = "run", *more: str) -> Path:
    """Train a tiny SAE on ``folder/corpus.jsonl`` and return its run folder."""
    run(folder, "train", *_settings(folder, name, *more))
    return folder / name


def train_here(folder: Path, name: str = "run", *more: str) -> Path:
    """Do what ``train`` does, in this process."""
    code, _, err = run_here(folder, "train", *_settings(folder, name, *more))
    assert code == 0, err
    return folder / name


def _settings(folder: Path, name: str, *more: str) -> list[str]:
    corpus = folder / "corpus.jsonl"
    if not corpus.exists():
        write_corpus(corpus)
    return [*tiny_arguments(corpus), "data.heldout_fraction=0.2", f"paths.run_dir={name}", "sae.k=4", *more]

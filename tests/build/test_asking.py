"""An SAE opened for questions: with a store or without it is the same SAE, read on the same text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_lightning.build.asking import open_asked
from sae_lightning.config import AsksSAE, validate
from sae_lightning.core import UserError
from tests.studied_run import run, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asking")
    train(folder)
    run(folder, "index", "sae=run", "store=store", "tokens=2048")
    return folder


def asked(folder: Path, **settings: Any) -> Any:
    return open_asked(validate({"progress": False, "device": "cpu", **settings}, AsksSAE))


def test_with_a_store_and_without_it_reads_alike(folder: Path) -> None:
    alone, stored = asked(folder, sae=str(folder / "run")), asked(folder, store=str(folder / "store"))
    assert alone.store is None
    assert stored.store is not None
    assert alone.sae_sha256 == stored.sae_sha256
    assert alone.lm["sha256"] == stored.lm["sha256"]
    text = "a river of stone, seven windows and Zürich 日本"
    ours, theirs = alone.reader.over(text), stored.reader.over(text)
    assert ours.pieces == theirs.pieces
    assert "".join(ours.pieces) == text
    assert np.array_equal(ours.features, theirs.features)
    assert np.array_equal(ours.values, theirs.values)
    # The same windows of the same text, from the first on.
    a, b = alone.corpus(1000), stored.corpus(1000)
    assert list(a.windows) == list(b.windows)
    assert len(a.windows) == -(-1000 // a.window_tokens)
    for one, other in zip(a.harvester.full([0, 1]), b.harvester.full([0, 1]), strict=True):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other)


def test_windows_of_a_prompt_begin_with_what_is_masked(folder: Path) -> None:
    reader = asked(folder, sae=str(folder / "run")).reader
    ids = np.arange(3 * reader.context_length) % 100
    batch = reader.windows(ids)
    assert batch.tokens.shape[1] == reader.context_length
    assert (batch.tokens[:, 0] == reader.start).all()
    assert (batch.token_index[:, 0] == -1).all()
    real = batch.token_index >= 0
    assert torch.equal(batch.tokens[real], torch.from_numpy(ids))
    assert torch.equal(batch.token_index[real], torch.arange(len(ids)))
    whole = reader.windows(ids, room=len(ids))
    assert whole.tokens.shape == (1, len(ids) + 1)


def test_features_are_those_of_the_sae(folder: Path) -> None:
    opened = asked(folder, store=str(folder / "store"))
    assert opened.check_feature(0) == 0
    last = opened.reader.sae.d_sae
    for bad in (-1, last, True, 1.0):
        with pytest.raises(UserError, match=f"features 0 to {last - 1}"):
            opened.check_feature(bad)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "sae: is needed, or a feature store"),
        ({"store": "store", "lm": {"name": "tiny"}}, "lm: store=store says"),
        ({"store": "store", "sites": {"read": ["blocks.0.hook_resid_post"]}}, "sites.read: store=store says"),
        ({"sae": "run", "data": {"kind": "activations", "path": "x.npy"}}, "have no text"),
        ({"sae": "run", "data": {"kind": "tokens"}}, "data.path: is needed"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        validate(settings, AsksSAE)


def test_an_sae_without_text_says_what_to_give(folder: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(512, 16)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    run(
        tmp_path,
        "train",
        "lm=none",
        "data=activations",
        "data.path=rows.npy",
        "data.batch_size=64",
        "tokens=256",
        "sae.d_sae=32",
        "sae.k=4",
        "paths.run_dir=rows",
        "trainer.accelerator=cpu",
    )
    with pytest.raises(UserError, match=r"lm=\.\.\."):
        asked(tmp_path, sae=str(tmp_path / "rows"))

"""The index command, as a user runs it: the store against the model and the SAE asked directly, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.lm import FrozenLM
from sae_lightning.sae import load_sae, save_sae
from sae_lightning.store import FeatureStore, open_reader
from tests.conftest import Command
from tests.studied_run import SITE, run, train

TOKENS = 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, a tiny run and the store of its SAE. Tests read it and write elsewhere."""
    folder = tmp_path_factory.mktemp("index")
    train(folder)
    run(folder, "index", "sae=run", "store=store", f"tokens={TOKENS}")
    return folder


@pytest.fixture
def store(folder: Path) -> FeatureStore:
    return FeatureStore.open(folder / "store")


def corpus_texts(folder: Path) -> list[str]:
    return [json.loads(line)["text"] for line in (folder / "corpus.jsonl").read_text().splitlines()]


def test_the_texts_are_those_of_the_corpus(folder: Path, store: FeatureStore) -> None:
    texts = corpus_texts(folder)
    assert store.n_texts > 20
    for text in range(store.n_texts - 1):
        assert store.text(text) == texts[int(store.document[text])]
        first, last = int(store.text_starts[text]), int(store.text_starts[text + 1])
        assert "".join(store.pieces(first, last)) == texts[int(store.document[text])]
        assert store.meta(text)["file"] == "corpus.jsonl"
    assert store.document.tolist() == list(range(store.n_texts))


def test_features_are_what_model_and_sae_give(folder: Path, store: FeatureStore) -> None:
    """Naively: the ids joined by separators, cut every 32, through the model and the SAE, window by window."""
    lm = FrozenLM.load("tiny", dtype="float32")
    sae = load_sae(folder / "run")
    stream: list[int] = []
    number: list[int] = []
    for text in corpus_texts(folder):
        ids = list(text.encode("utf-8"))
        number += [*range(len(stream) - number.count(-1), len(stream) - number.count(-1) + len(ids)), -1]
        stream += [*ids, 256]
    n = TOKENS // 32
    seen = 0
    median = store.facts["mask"]["median_norm"]
    for window in range(n):
        ids, mine = stream[window * 32 : (window + 1) * 32], number[window * 32 : (window + 1) * 32]
        with torch.no_grad():
            x = lm.activations(torch.tensor([ids]), [SITE])[SITE][0]
            dense = sae.encode(x).dense().numpy()
        for position, token in enumerate(mine):
            if token < 0:
                continue
            assert store.token_ids[token] == ids[position]
            kept = position > 0 and float(x[position].norm()) <= 10 * median
            assert bool(store.kept[token]) == kept
            features, values = store.csr.row(token)
            wanted = dense[position] if kept else np.zeros_like(dense[position])
            assert features.tolist() == np.flatnonzero(wanted).tolist()
            assert np.allclose(values, wanted[features], rtol=1e-4, atol=1e-6)
            seen += len(features)
    assert seen == store.nnz
    assert store.n_tokens == sum(token >= 0 for token in number[:TOKENS])


def test_any_text_is_read_as_the_corpus_was(folder: Path, store: FeatureStore) -> None:
    lm, sae = FrozenLM.load("tiny", dtype="float32"), load_sae(folder / "run")
    text = "a river in Zürich " * 4
    found = store.activations_over(text)
    assert "".join(found.pieces) == text
    ids = list(text.encode("utf-8"))
    assert found.token_ids.tolist() == ids
    dense = np.zeros((len(ids), sae.d_sae), np.float32)
    for first in range(0, len(ids), 31):
        part = ids[first : first + 31]
        with torch.no_grad():
            x = lm.activations(torch.tensor([[256, *part]]), [SITE])[SITE][0, 1:]
            dense[first : first + len(part)] = sae.encode(x).dense().numpy()
    dense[~found.kept] = 0
    assert found.kept.sum() > len(ids) / 2
    assert set(found.features.tolist()) == set(np.flatnonzero(dense.any(0)).tolist())
    assert np.allclose(found.values, dense[:, found.features], rtol=1e-4, atol=1e-6)
    chosen = store.activations_over(text, [5, 0])
    assert np.allclose(chosen.values, dense[:, [5, 0]], rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="has no tokens"):
        store.activations_over("")


def test_a_sigkill_loses_nothing(folder: Path, store: FeatureStore, tmp_path: Path) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "sae_lightning.index", f"sae={folder / 'run'}", f"tokens={TOKENS}", "store=cut"]
    started = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "cut.partial" / "journal.json"
    deadline = time.monotonic() + 120
    while not journal.exists() and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not (tmp_path / "cut").exists()
    done = run(tmp_path, "index", *command[3:])
    assert "tokens of" in done.stdout
    for path in store.path.iterdir():
        assert (tmp_path / "cut" / path.name).read_bytes() == path.read_bytes(), path.name
    # Once more: it is there already, and nothing is read.
    before = (tmp_path / "cut" / "manifest.json").stat().st_mtime_ns
    run(tmp_path, "index", *command[3:])
    assert (tmp_path / "cut" / "manifest.json").stat().st_mtime_ns == before


def test_only_held_out_documents_on_demand_and_parquet_beside(folder: Path, tmp_path: Path) -> None:
    run(tmp_path, "index", f"sae={folder / 'run'}", "store=s", "tokens=2048", "split=heldout", "parquet=tables")
    held = FeatureStore.open(tmp_path / "s")
    numbers = held.document.tolist()
    assert numbers != list(range(held.n_texts))
    texts = corpus_texts(folder)
    assert all(held.text(i) == texts[number] for i, number in enumerate(numbers))
    assert (tmp_path / "tables" / "activations.parquet").is_file()


def test_a_token_file_without_its_texts_is_decoded(folder: Path, tmp_path: Path) -> None:
    run(tmp_path, "tokenize", "lm=tiny", "data=text", f"data.path={folder / 'corpus.jsonl'}", "out=tokens.bin")
    arguments = ["data=tokens", "data.path=tokens.bin", "data.context_length=32", "data.micro_batch=4"]
    run(tmp_path, "index", f"sae={folder / 'run'}", "store=s", "tokens=2048", *arguments)
    decoded = FeatureStore.open(tmp_path / "s")
    texts = corpus_texts(folder)
    assert all(decoded.text(i) == texts[i] for i in range(decoded.n_texts))
    whole = FeatureStore.open(folder / "store")
    assert np.array_equal(decoded.csr.values[:500], whole.csr.values[:500])


@pytest.mark.parametrize("sites", ["sites=transcoder", "sites=crosscoder"])
def test_transcoders_and_crosscoders(folder: Path, tmp_path: Path, sites: str) -> None:
    (tmp_path / "corpus.jsonl").write_bytes((folder / "corpus.jsonl").read_bytes())
    more = ["sites.layers=[0,1]"] if sites.endswith("crosscoder") else []
    train(tmp_path, "run", sites, *more)
    run(tmp_path, "index", "sae=run", "store=store", "tokens=1024")
    store = FeatureStore.open(tmp_path / "store")
    assert store.nnz > 1000
    found = store.activations_over("a river in a garden")
    assert (found.values != 0).sum() > 4


BAD = {
    "no such SAE": (["sae=nowhere", "store=s"], ["nowhere", "no such"]),
    "no store named": (["sae={run}"], ["store: is needed"]),
    "tokens": (["sae={run}", "store=s", "tokens=0"], ["tokens=0"]),
    "split": (["sae={run}", "store=s", "split=test"], ["split='test'"]),
    "in the way": (["sae={run}", "store={corpus}"], ["corpus.jsonl", "exists and is no feature store"]),
    "a folder in the way": (["sae={run}", "store={run}"], ["exists and is no feature store"]),
    "another store": (["sae={run}", "store={store}", "tokens=1024"], ["holds another store", "overwrite=true"]),
    "other data": (["sae={run}", "store=s", "data=activations", "data.path=x.npy"], ["have no text", "data=text"]),
    "other model": (["sae={run}", "store=s", "lm=tiny", "+lm.options.seed=9"], ["was trained on tiny", "any_lm=true"]),
    "other width": (
        ["sae={run}", "store=s", "lm=tiny", "+lm.options.d_model=16", "any_lm=true"],
        ["reads rows of width 32"],
    ),
    "no such text": (["sae={run}", "store=s", "data=text", "data.path=gone.txt"], ["gone.txt"]),
    "unknown key": (["sae={run}", "store=s", "token=5"], ["token", "did you mean"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(command: Command, folder: Path, tmp_path: Path, case: str) -> None:
    arguments, words = BAD[case]
    places = {"run": folder / "run", "corpus": folder / "corpus.jsonl", "store": folder / "store"}
    done = command("index", *(argument.format(**places) for argument in arguments))
    assert done.returncode == 2, (done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.strip() and " INFO " not in line]
    assert len(lines) == 1, done.stderr
    for word in ("error: ", *words):
        assert word in lines[0], lines[0]
    assert not (tmp_path / "s").exists()


def test_a_store_of_another_sae_is_not_read_with_this_one(folder: Path, tmp_path: Path) -> None:
    store = FeatureStore.open(folder / "store")
    moved = tmp_path / "export"
    moved.mkdir()
    for path in (folder / "run" / "export").iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    reader = open_reader(store.facts, str(moved), "store")
    assert reader.sae.d_sae == store.d_sae
    other = train(tmp_path, "other", "seed=5")
    with pytest.raises(UserError, match="was made with another SAE"):
        open_reader(store.facts, str(other), "store")


def test_an_sae_of_other_options_is_another_one(folder: Path, tmp_path: Path) -> None:
    """The same weights at another k: the store of one is none of the other."""
    sae = load_sae(folder / "run")
    for name, k in (("own", 4), ("other", 8)):
        sae.k = k  # type: ignore[assignment]
        sae.sample = None
        save_sae(tmp_path / name, sae, dict(sae.metadata))
    run(tmp_path, "index", "sae=own", "store=s", "tokens=512")
    done = run(tmp_path, "index", "sae=other", "store=s", "tokens=512", check=False)
    assert done.returncode == 2
    assert "holds another store" in done.stderr
    with pytest.raises(UserError, match="was made with another SAE"):
        open_reader(FeatureStore.open(tmp_path / "s").facts, str(tmp_path / "other"), "s")


def test_the_same_tokens_from_other_files_are_another_store(folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    for name, title in (("a", "one"), ("b", "two")):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({**r, "title": title}) + "\n" for r in rows))
    data = ["data=text", "data.context_length=32", "data.micro_batch=4", "tokens=512", "store=s"]
    run(tmp_path, "index", f"sae={folder / 'run'}", *data, "data.path=a.jsonl")
    done = run(tmp_path, "index", f"sae={folder / 'run'}", *data, "data.path=b.jsonl", check=False)
    assert done.returncode == 2
    assert "holds another store" in done.stderr
    run(tmp_path, "index", f"sae={folder / 'run'}", *data, "data.path=b.jsonl", "overwrite=true")
    assert FeatureStore.open(tmp_path / "s").meta(0)["title"] == "two"


def test_windows_that_begin_with_a_bos_are_read_with_one(folder: Path, store: FeatureStore) -> None:
    reader = store.reader
    ids = np.array(list(b"a river in a garden"), np.int64)
    lm = reader.lm
    before = lm.bos_id
    try:
        lm.bos_id = 7
        for prepend, first in ((False, 256), (True, 7)):
            kept, found = replace(reader, prepend_bos=prepend).rows(ids)
            x = lm.activations(torch.tensor([[first, *ids.tolist()]]), [SITE])[SITE][0, 1:]
            wanted = reader.sae.encode(x[torch.from_numpy(kept)]).dense()
            assert torch.allclose(found.dense(), wanted, atol=1e-5)
    finally:
        lm.bos_id = before

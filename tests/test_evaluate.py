"""The evaluate command, as a user runs it: figures, files, and one line for what can't be measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from sae_lightning.core import torch_generator
from sae_lightning.sae import TopKSAE, save_sae
from tests.conftest import Command, planted

SITE = "blocks.1.hook_resid_post"
FEW = ["tokens=512", "studies.downstream.tokens=256", "draws=100"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run on text. Its folder is read by the tests, and copied where one changes it."""
    import os
    import subprocess
    import sys

    from tests.conftest import tiny_arguments

    folder = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)
    words = ["tree", "river", "stone", "cloud", "window", "garden", "letter", "seven", "green", "slow"]
    corpus = folder / "corpus.jsonl"
    texts = (f"text {i}: " + " ".join(rng.choice(words, size=40)) for i in range(400))
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    arguments = [*tiny_arguments(corpus), "lm.dtype=float32", "data.heldout_fraction=0.2", "paths.run_dir=run"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "sae_lightning.train", *arguments]
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    return folder / "run"


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text())


def figures(folder: Path) -> dict[str, Any]:
    (one,) = read(folder)["saes"].values()
    return one["studies"]


def refused(done: Any, *words: str) -> None:
    assert done.returncode == 2, (done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.strip() and " INFO " not in line]
    assert len(lines) == 1, done.stderr
    for word in ("error: ", *words):
        assert word in lines[0], lines[0]
    assert not done.stdout


def test_a_run_folder_is_all_it_needs(command: Command, run_dir: Path, tmp_path: Path) -> None:
    done = command("evaluate", f"sae={run_dir}", "out=here", *FEW)
    assert done.returncode == 0, done.stderr
    found = read(tmp_path / "here")
    (sae,) = found["saes"].values()
    assert sae["sae"] == {
        "architecture": "batch_topk",
        "d_in": 32,
        "d_out": 32,
        "d_sae": 64,
        "k": 32,
        "parameters": 4192,
    }
    assert sae["mask"]["from"] == "the SAE"
    assert sae["data"]["split"] == "heldout"
    assert str(tmp_path) not in json.dumps(found)
    assert set(sae["studies"]) == {"reconstruction", "sparsity", "downstream"}
    for study in sae["studies"].values():
        for name, estimate in study["estimates"].items():
            assert estimate["low"] <= estimate["value"] <= estimate["high"], name
            assert estimate["tokens"] > 200
    at_training = json.loads((run_dir / "metrics.json").read_text())
    fvu = sae["studies"]["reconstruction"]["estimates"]["fvu"]
    # The same windows, cut at another place.
    assert fvu["value"] == pytest.approx(at_training["heldout"]["fvu"], rel=0.1)
    assert "fvu" in done.stdout
    assert "95 % interval" in done.stdout
    page = (tmp_path / "here" / "evaluation.html").read_text()
    assert "<html" in page


def test_neither_processes_nor_batch_sizes_change_a_bit(command: Command, run_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["data"] |= {"micro_batch": 7, "batch_size": 64, "buffer_tokens": 512}
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    whole = [*FEW, "tokens=16384"]  # four units
    for name, arguments in {
        "one": [f"sae={run_dir}"],
        "two": [f"sae={run_dir}", "processes=2"],
        "four": [f"sae={run_dir}", "processes=4"],
        "batch": [f"sae={other}"],
    }.items():
        done = command("evaluate", *arguments, *whole, f"out={name}")
        assert done.returncode == 0, done.stderr
    one = figures(tmp_path / "one")
    assert one["reconstruction"]["estimates"]["fvu"]["tokens"] > 4096
    for name in ("two", "four", "batch"):
        assert figures(tmp_path / name) == one


def test_stored_activations_need_no_language_model(command: Command, tmp_path: Path) -> None:
    rows, held = planted(3000, d=16, n_true=32, p=0.06)[0], planted(700, d=16, n_true=32, p=0.06, seed=3)[0]
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "held.npy", held)
    arguments = ["lm=none", "data=activations", "data.path=rows.npy", "data.batch_size=64", "tokens=6400"]
    done = command("train", *arguments, "sae.d_sae=48", "sae.k=3", "paths.run_dir=run")
    assert done.returncode == 0, done.stderr
    done = command("evaluate", "sae=run/export", "data=activations", "data.path=held.npy", "out=e")
    assert done.returncode == 0, done.stderr
    (sae,) = read(tmp_path / "e")["saes"].values()
    assert set(sae["studies"]) == {"reconstruction", "sparsity"}
    fvu = sae["studies"]["reconstruction"]["estimates"]["fvu"]
    assert fvu["tokens"] == 700
    from sae_lightning.sae import load_sae

    with torch.no_grad():
        y_hat = load_sae(tmp_path / "run")(torch.from_numpy(held)).y_hat.double().numpy()
    own = ((y_hat - held) ** 2).sum() / ((held - held.mean(0, dtype=np.float64)) ** 2).sum()
    assert fvu["value"] == pytest.approx(own, rel=1e-6)
    # Its own run: the held-out rows of the training file, though the folder was not named.
    done = command("evaluate", "sae=run", "tokens=100")
    assert done.returncode == 0, done.stderr
    (sae,) = read(tmp_path / "run" / "evaluation")["saes"].values()
    assert sae["data"] == {"source": "rows.npy", "split": "held-out rows", "rows": 75, "context_length": None}


def test_another_language_model_is_refused_unless_wanted(command: Command, run_dir: Path, tmp_path: Path) -> None:
    done = command("evaluate", f"sae={run_dir}", "lm=tiny", "lm.dtype=bfloat16", *FEW)
    refused(done, "was trained on tiny", "whose weights are others", "any_lm=true")
    done = command("evaluate", f"sae={run_dir}", "lm=tiny", "lm.dtype=bfloat16", "any_lm=true", "out=e", *FEW)
    assert done.returncode == 0, done.stderr
    ((said,),) = (sae["mind"] for sae in read(tmp_path / "e")["saes"].values())
    assert "other weights" in said
    assert said in done.stderr
    assert "other weights" in (tmp_path / "e" / "evaluation.html").read_text()


BAD: dict[str, tuple[list[str], list[str]]] = {
    "no such folder": (["sae=nowhere"], ["nowhere", "no such"]),
    "no SAE given": ([], ["sae", "is needed"]),
    "a site of another width": (
        ["sae=RUN", "sites.read=[blocks.1.mlp.hook_post]"],
        ["width 32", "blocks.1.mlp.hook_post"],
    ),
    "an unknown site": (["sae=RUN", "sites.read=[blocks.9.hook_resid_post]"], ["blocks.9.hook_resid_post"]),
    "an unknown study": (["sae=RUN", "studies=[reconstructoin]"], ["reconstructoin", "reconstruction"]),
    "no study": (["sae=RUN", "studies=[]"], ["studies"]),
    "a setting of no study": (["sae=RUN", "studies.sparsity.bin=3"], ["studies.sparsity.bin"]),
    "a bad setting": (["sae=RUN", "studies.downstream.tokens=0"], ["studies.downstream.tokens=0"]),
    "ground truth of text": (["sae=RUN", "studies=[groundtruth]"], ["groundtruth", "synthetic"]),
    "one SAE to compare": (["sae=RUN", "studies=[reconstruction,compare]"], ["compare", "two SAEs"]),
    "the same twice": (["sae=[RUN,RUN]"], ["given twice"]),
    "text it was trained on": (
        ["sae=RUN", "data=text", "data.path=CORPUS", "data.heldout_fraction=0.5"],
        ["0.5", "0.2"],
    ),
    "too few draws": (["sae=RUN", "draws=3"], ["draws=3"]),
    "out is a file": (["sae=RUN", "out=CORPUS"], ["is a file"]),
    "out cannot be made": (["sae=RUN", "out=CORPUS/x"], ["corpus.jsonl"]),
    "no such device": (["sae=RUN", "device=foo"], ["device=foo", "auto"]),
    "no GPU here": (["sae=RUN", "device=cuda:7"], ["device=cuda:7", "auto"]),
    "another site to write": (["sae=RUN", "sites.write=[nonsense]"], ["nonsense"]),
    "draws for days": (["sae=RUN", "draws=100000000000"], ["draws"]),
    "a torn file": (["sae=TORN"], ["sae.safetensors"]),
    "a changed setting": (["sae=CHANGED"], ["stored with this SAE"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(command: Command, run_dir: Path, tmp_path: Path, case: str) -> None:
    for name in ("torn", "changed"):
        if case.startswith(("a torn", "a changed")):
            shutil.copytree(run_dir / "export", tmp_path / name)
    if case == "a torn file":
        weights = tmp_path / "torn" / "sae.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    if case == "a changed setting":
        config = json.loads((tmp_path / "changed" / "config.json").read_text())
        config["options"]["layer_norm"] = True
        (tmp_path / "changed" / "config.json").write_text(json.dumps(config))
    places = {"RUN": run_dir, "CORPUS": run_dir.parent / "corpus.jsonl", "TORN": "torn", "CHANGED": "changed"}
    arguments, words = BAD[case]
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    refused(command("evaluate", "tokens=512", *arguments), *words)


def test_a_transcoder_is_not_scored_against_its_own_input(command: Command, tmp_path: Path) -> None:
    sae = TopKSAE(16, 32, k=4)
    with torch.no_grad():
        sae.W_dec.fill_(0.1)
    save_sae(tmp_path / "tc", sae, {"sites": {"read": ["blocks.1.hook_resid_pre"], "write": ["blocks.1.hook_mlp_out"]}})
    np.save(tmp_path / "rows.npy", planted(500, d=16)[0])
    done = command("evaluate", "sae=tc", "data=activations", "data.path=rows.npy")
    refused(done, "has no targets", "blocks.1.hook_mlp_out")


def test_saes_at_different_sites_stand_side_by_side_without_a_verdict(
    command: Command, run_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_dir / "export", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["metadata"]["sites"] = {"read": ["blocks.0.hook_resid_post"], "write": ["blocks.0.hook_resid_post"]}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    text = ["data=text", f"data.path={run_dir.parent / 'corpus.jsonl'}", "data.context_length=32"]
    lm = ["lm=tiny", "lm.dtype=float32", "data.heldout_fraction=0.2"]
    done = command("evaluate", f"sae=[{run_dir},other]", *text, *lm, "out=e", *FEW)
    assert done.returncode == 0, done.stderr
    assert "different sites" in done.stderr
    assert set(read(tmp_path / "e")["comparisons"]) == {"consistency"}
    assert "better" not in done.stdout
    refused(
        command("evaluate", f"sae=[{run_dir},other]", *text, *lm, "studies=[reconstruction,compare]", "tokens=512"),
        "different sites",
    )


def test_few_windows_say_why_there_is_no_interval(command: Command, run_dir: Path, tmp_path: Path) -> None:
    done = command("evaluate", f"sae={run_dir}", "tokens=96", "studies=[reconstruction]", "out=e")
    assert done.returncode == 0, done.stderr
    found = figures(tmp_path / "e")["reconstruction"]
    assert found["estimates"]["fvu"]["low"] is None
    assert found["notes"] == ["3 windows: intervals need at least 8; raise tokens"]
    assert "raise tokens" in done.stdout


def test_a_full_disk_loses_no_figure(command: Command, run_dir: Path, tmp_path: Path) -> None:
    import resource
    import subprocess
    import sys

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    done = subprocess.run(
        [sys.executable, "-m", "sae_lightning.evaluate", f"sae={run_dir}", "out=e", *FEW, "device=cpu"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        preexec_fn=small_files,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "disk is full" in done.stderr
    assert "fvu" in done.stdout
    assert not list((tmp_path / "e").iterdir())


def test_an_sae_that_says_nothing_of_its_origin(command: Command, tmp_path: Path) -> None:
    sae = TopKSAE(32, 64, k=4)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch_generator(1)) * 0.2)
    save_sae(tmp_path / "bare", sae)
    (tmp_path / "corpus.txt").write_text("\n\n".join(f"A text about number {i} and its friends." for i in range(400)))
    refused(command("evaluate", "sae=bare"), "sites.read=[")
    refused(command("evaluate", "sae=bare", f"sites.read=[{SITE}]"), "lm=")
    text = ["data=text", "data.path=corpus.txt", "data.context_length=16", "data.heldout_fraction=0.3"]
    done = command("evaluate", "sae=bare", f"sites.read=[{SITE}]", "lm=tiny", *text, "out=e", *FEW)
    assert done.returncode == 0, done.stderr
    (sae_facts,) = read(tmp_path / "e")["saes"].values()
    assert sae_facts["mask"]["from"] == "fitted here"
    assert sae_facts["lm"]["name"] == "tiny"

"""Probes, ablations and consistency as a user runs them: ``python -m sae_lightning.evaluate``."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from sae_lightning import command as commands
from sae_lightning.config import RunConfig, validate
from sae_lightning.core import torch_generator
from sae_lightning.sae.io import load_sae, save_sae
from sae_lightning.train import train
from tests.conftest import Command, tiny_arguments
from tests.studies.planted_texts import pairs

Evaluate = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run's folder, trained here."""
    folder = tmp_path_factory.mktemp("studies")
    text = folder / "corpus.jsonl"
    text.write_text("".join(json.dumps({"text": f"{t} " * 4}) + "\n" for t, _ in pairs(200)))
    overrides = [*tiny_arguments(text), "data.heldout_fraction=0.3", "progress=false", "logger=none"]
    return train(validate(commands.plain(commands.compose("train", overrides)), RunConfig), folder / "run")


@pytest.fixture
def evaluate(command: Command, run_folder: Path, tmp_path: Path) -> Evaluate:
    def run(*arguments: str) -> CompletedProcess[str]:
        return command("evaluate", f"sae={run_folder}", f"out={tmp_path / 'out'}", "tokens=1024", *arguments)

    return run


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["question", "verdict"], *pairs(200, ("safe", "unsafe"))])
    return path


def test_probe_and_ablations_are_evaluated(evaluate: Evaluate, questions: Path, tmp_path: Path) -> None:
    done = evaluate(
        "studies=[probe,ablation,ablation_sparsity]",
        f"studies.probe.path={questions}",
        "studies.probe.text=question",
        "studies.probe.label=verdict",
        "studies.probe.k=[1,3]",
        "studies.probe.min_per_class=20",
        "studies.ablation.n_features=3",
        "studies.ablation.min_firings=2",
        "studies.ablation_sparsity.windows=8",
        "studies.ablation_sparsity.span=6",
    )
    assert done.returncode == 0, done.stderr
    (one,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["saes"].values()
    studies = one["studies"]
    assert set(studies) == {"probe", "ablation", "ablation_sparsity"}
    probe = studies["probe"]["estimates"]
    assert 0.5 < probe["probe_accuracy/own"]["value"] <= 1
    assert probe["sparse_probe_accuracy/own/k3"]["low"] <= probe["sparse_probe_accuracy/own/k3"]["high"]
    assert len(studies["ablation"]["tables"]["features"]["rows"]) == 3
    assert 0 < studies["ablation_sparsity"]["estimates"]["ablation_sparsity"]["value"] < 1
    assert "dense_probe_accuracy/own" in done.stdout


def test_a_permuted_copy_is_consistent_and_indistinguishable(
    command: Command, run_folder: Path, questions: Path, tmp_path: Path
) -> None:
    sae = load_sae(run_folder)
    order = torch.randperm(sae.d_sae, generator=torch_generator(0, "tests", "copy"))
    with torch.no_grad():
        sae.W_enc.copy_(sae.W_enc[:, order])
        sae.b_enc.copy_(sae.b_enc[order])
        sae.W_dec.copy_(sae.W_dec[order])
    shutil.copytree(run_folder, tmp_path / "copy")
    save_sae(tmp_path / "copy" / "export", sae)
    asked = [f"studies.probe.path={questions}", "studies.probe.text=question", "studies.probe.label=verdict"]
    saes = f"sae=[{run_folder},{tmp_path / 'copy'}]"
    done = command(
        "evaluate", saes, "out=out", "tokens=1024", "studies=[probe,compare,consistency]", *asked, "studies.probe.k=[1]"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["comparisons"]
    for name, estimate in found["consistency"]["estimates"].items():
        assert estimate["value"] == pytest.approx(1, abs=1e-6), name
    differences = found["compare"]["tables"]["differences"]
    verdict = differences["columns"].index("verdict")
    words = {row[1]: row[verdict] for row in differences["rows"]}
    # The same features under other numbers: only the random ones differ.
    same = {metric: word for metric, word in words.items() if not metric.startswith("random")}
    assert len(same) == 6
    assert set(same.values()) == {"indistinguishable"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["studies=[probe]", "studies.probe.path=nowhere.csv"],
            "nowhere.csv: there is no such file or folder; studies.probe.path must name",
        ),
        (["studies=[probe]", "studies.probe.path={questions}"], "set studies.probe.text"),
        (
            ["studies=[probe]", "studies.probe.path={questions}", "studies.probe.text=question",
             "studies.probe.label=question"],
            "a probe needs two of at least 40 texts",
        ),
        (["studies=[probe]", "studies.probe.tasks=[]"], "studies.probe.tasks=[]: name a task"),
        (["studies=[probe]", "studies.probe.tasks=[tomatoes]"], "studies.probe.tasks"),
        (["studies=[probe]", "studies.probe.k=[0]"], "studies.probe.k"),
        (["studies=[ablation]", "studies.ablation.min_firings=100000"], "no feature fires 100000 times"),
        (["studies=[ablation_sparsity]", "studies.ablation_sparsity.span=32"], "needs windows longer than span=32"),
        (["studies=[consistency]"], "needs at least two SAEs"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(evaluate: Evaluate, questions: Path, arguments: list[str], said: str) -> None:
    done = evaluate(*(argument.format(questions=questions) for argument in arguments))
    assert done.returncode == 2, done.stderr
    last = [line for line in done.stderr.splitlines() if line.strip()]
    assert said in last[-1], done.stderr
    assert "Traceback" not in done.stderr

"""Token patterns by the command: no client, patterns for programs and for people, and the report that shows them."""

import json
from pathlib import Path

import pytest

from sae_lightning.studies.autointerp.neurons import Neurons
from tests.studied_run import run, run_here, train

QUICK = ["explainer=n2g", "client=none", "n_features=4", "n_neurons=3", "min_firings=20", "tokens=4096", "draws=100"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("n2g")
    train(folder)
    run(folder, "index", "sae=run", "store=store", "tokens=4096")
    run(folder, "interpret", "store=store", "out=out", *QUICK, "progress=false")
    return folder


def test_features_and_neurons_have_patterns_with_scores(folder: Path) -> None:
    found = json.loads((folder / "out" / "interpretation.json").read_text())
    assert found["explainer"] == "n2g"
    assert found["client"] is None
    assert [unit["kind"] for unit in found["units"]].count("neuron") == 3
    explained = [unit for unit in found["units"] if unit["explanation"]]
    assert explained
    for unit in explained:
        details = unit["details"]
        assert details["patterns"]
        assert sum(one["count"] for one in details["patterns"]) == details["stretches"] - details["beyond"]
        assert details["scores"]["recall"]["value"] == pytest.approx(unit["explanation"]["scores"]["recall"])
    assert {"n2g_f1/features", "n2g_recall/neurons"} <= set(found["result"]["estimates"])


def test_the_report_shows_them(folder: Path) -> None:
    said = json.loads((folder / "out" / "explanations.json").read_text())["features"]
    chosen = ["studies=[density]", "evaluation_tokens=0", "progress=false", "out=report"]
    run(folder, "analyze", "store=store", "explanations=out/explanations.json", *chosen)
    page = (folder / "report" / "data" / "table.js").read_text()
    texts = json.loads(page[len("SAE.data(") : -len(");\n")])["texts"]["explanation"]
    assert texts == {feature: many[0]["text"] for feature, many in said.items()}
    assert "by n2g" in (folder / "report" / "index.html").read_text()


def test_a_neuron_that_is_never_active_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Neurons._values

    def with_a_dead_one(self, units, n_tokens, show):
        kept, values = read(self, units, n_tokens, show)
        values[:, 1] = 0.0
        return kept, values

    monkeypatch.setattr(Neurons, "_values", with_a_dead_one)
    code, _, err = run_here(folder, "interpret", "store=store", "out=dead", *QUICK, "progress=false")
    assert code == 0, err
    assert "1 of 3 neurons are never active: left out" in err
    found = json.loads((folder / "dead" / "interpretation.json").read_text())
    before = json.loads((folder / "out" / "interpretation.json").read_text())
    named = [unit["unit"] for unit in before["units"]]
    assert [unit["unit"] for unit in found["units"]] == [*named[:5], named[6]]


def test_the_same_seed_gives_the_same_file(folder: Path) -> None:
    # A run that was killed between its files is made again.
    (folder / "again").mkdir()
    (folder / "again" / "explanations.json").write_text("{}")
    run(folder, "interpret", "store=store", "out=again", *QUICK, "progress=false")
    assert (folder / "again" / "explanations.json").read_bytes() == (folder / "out" / "explanations.json").read_bytes()

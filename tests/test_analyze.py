"""The analyze command, as a user runs it: everything in one JSON, a report, and one line for what can't be asked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_lightning.sae import load_sae
from sae_lightning.store import FeatureStore
from sae_lightning.studies.autointerp.explanations import Explanation, Explanations
from tests.conftest import Command
from tests.studied_run import run, train

QUICK = [
    "evaluation_tokens=512",
    "studies.downstream.tokens=256",
    "studies.neuron_correlation.tokens=1024",
    "studies.neuron_correlation.min_firings=2",
    "draws=100",
    "progress=false",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, a tiny run, its store, and the report of that. Tests read it and write elsewhere."""
    folder = tmp_path_factory.mktemp("analyze")
    train(folder)
    run(folder, "index", "sae=run", "store=store", "tokens=4096")
    (folder / "notes.json").write_text(json.dumps({"7": "fires on <b>rivers</b>"}))
    done = run(folder, "analyze", "store=store", "out=report", "notes=notes.json", *QUICK)
    (folder / "said.txt").write_text(done.stdout)
    return folder


def analysis(report: Path) -> dict[str, Any]:
    return json.loads((report / "analysis.json").read_text())


def test_everything_is_in_one_json(folder: Path) -> None:
    found = analysis(folder / "report")
    (one,) = found["stores"].values()
    assert set(one["studies"]) == {
        "density",
        "similarity",
        "cooccurrence",
        "clusters",
        "logit_effect",
        "neighbourhood",
        "neuron_correlation",
    }
    store, sae = FeatureStore.open(folder / "store"), load_sae(folder / "run")
    dense = store.to_scipy().toarray()
    arrays = one["studies"]["density"]["arrays"]
    assert arrays["count"] == (dense != 0).sum(0).tolist()
    assert one["studies"]["density"]["estimates"]["l0"]["value"] == pytest.approx((dense != 0).sum() / store.n_kept)
    rows = sae.W_dec.detach().double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T - 2 * np.eye(len(rows))
    nearest = one["studies"]["similarity"]["arrays"]
    assert np.allclose([row[0] for row in nearest["neighbour_cosine"]], cosines.max(1), atol=1e-5)
    assert len(one["studies"]["neighbourhood"]["arrays"]["map"]) == store.d_sae
    (evaluated,) = found["evaluation"]["saes"].values()
    assert set(evaluated["studies"]) == {"reconstruction", "sparsity", "downstream"}
    assert list(found["evaluation"]["saes"]) == list(found["stores"])
    said = (folder / "said.txt").read_text()
    for word in ("l0", "95 % interval", "fvu", "index.html", "analysis.json"):
        assert word in said


def test_the_report_says_nothing_of_the_machine_and_shows_text_as_text(folder: Path) -> None:
    report = folder / "report"
    assert {p.name for p in report.glob("*.html")} == {"index.html", "features.html", "feature.html"}
    for path in report.rglob("*"):
        if path.suffix in (".html", ".js", ".json") and path.name != "plotly.min.js":
            text = path.read_text(encoding="utf-8")
            assert str(folder) not in text, path
            if path.suffix != ".json":
                assert "<script>alert" not in text, path
                assert "<img src=x" not in text, path
                assert "<b>rivers" not in text, path
            assert "\x00" not in text
            assert "\x1b" not in text
    assert list((report / "tensorboard").rglob("events.out.*"))


def explain(store: Path, place: Path, sha256: str | None = None) -> Path:
    """Write a file of explanations of a store's SAE."""
    said = Explanation("rivers <script>alert(4)</script>\u202e", "judge", {"detection_accuracy": 0.75})
    known = FeatureStore.open(store).facts["sae"]["sha256"]
    Explanations(sha256 or known, {7: (said,)}).save(place)
    return place


def test_explanations_are_in_the_report(folder: Path, tmp_path: Path) -> None:
    explain(folder / "store", tmp_path / "explanations.json")
    chosen = ["studies=[density]", "out=out", "progress=false", "explanations=explanations.json"]
    run(tmp_path, "analyze", f"store={folder / 'store'}", *chosen)
    table = (tmp_path / "out" / "data" / "table.js").read_text()
    assert '"texts":{"explanation":{"7":"rivers \\u003cscript' in table
    assert "1 features, by judge" in (tmp_path / "out" / "index.html").read_text()
    for path in [*(tmp_path / "out").glob("*.html"), *(tmp_path / "out" / "data").rglob("*.js")]:
        text = path.read_text(encoding="utf-8")
        assert "<script>alert" not in text, path
        assert "\u202e" not in text, path
        assert str(tmp_path) not in text, path


def test_without_a_report_the_json_is_alone(folder: Path, tmp_path: Path) -> None:
    run(tmp_path, "analyze", f"store={folder / 'store'}", "out=here", "studies=[density]", "report=false")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["analysis.json"]
    (one,) = analysis(tmp_path / "here")["stores"].values()
    assert set(one["studies"]) == {"density"}
    assert analysis(tmp_path / "here")["evaluation"] is None


def test_a_text_is_coloured_and_concepts_are_looked_up(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "concepts.txt").write_text("river\ngarden\n")
    (tmp_path / "letter.txt").write_text("a river in a garden <script>alert(3)</script>")
    chosen = ["studies=[density,colouring,completeness,contexts]", "studies.colouring.file=letter.txt"]
    more = ["studies.completeness.concepts=concepts.txt", "studies.contexts.features=[3,5]", "out=out"]
    run(tmp_path, "analyze", f"store={folder / 'store'}", *chosen, *more)
    (one,) = analysis(tmp_path / "out")["stores"].values()
    pieces = [row[2] for row in one["studies"]["colouring"]["tables"]["tokens"]["rows"]]
    assert "".join(pieces) == (tmp_path / "letter.txt").read_text()
    assert {row[0] for row in one["studies"]["contexts"]["tables"]["examples"]["rows"]} == {3, 5}
    assert (tmp_path / "out" / "texts.html").is_file()
    assert "covered" in one["studies"]["completeness"]["estimates"]


def test_two_saes_side_by_side(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_bytes((folder / "corpus.jsonl").read_bytes())
    train(tmp_path, "wide", "sae.d_sae=96")
    run(tmp_path, "index", "sae=wide", "store=wide_store", "tokens=4096")
    stores = f"store=[{folder / 'store'},wide_store]"
    run(tmp_path, "analyze", stores, "out=out", *QUICK)
    found = analysis(tmp_path / "out")
    assert list(found["stores"]) == ["store", "wide_store"]
    assert {"splitting", "neighbourhoods"} <= set(found["comparisons"])
    together = found["evaluation"]["comparisons"]
    assert {"compare", "consistency"} <= set(together)
    assert "consistency_mmcs/store in wide_store" in together["consistency"]["estimates"]
    assert list(found["evaluation"]["saes"]) == ["store", "wide_store"]
    for name, d_sae in (("store", 64), ("wide_store", 96)):
        assert len(found["comparisons"]["neighbourhoods"]["arrays"][f"map/{name}"]) == d_sae
        assert (tmp_path / "out" / name / "features.html").is_file()
    assert (tmp_path / "out" / "index.html").is_file()


def test_a_text_that_is_gone_leaves_out_what_reads_it(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "corpus.jsonl").write_bytes((folder / "corpus.jsonl").read_bytes())
    arguments = ["data=text", "data.path=corpus.jsonl", "data.context_length=32", "data.micro_batch=4"]
    run(tmp_path, "index", "sae=run", "store=store", "tokens=1024", *arguments)
    (tmp_path / "corpus.jsonl").unlink()
    chosen = "studies=[density,neuron_correlation,reconstruction]"
    done = run(tmp_path, "analyze", "store=store", "out=out", chosen, check=False)
    assert done.returncode == 2, "what was asked for by name"
    assert not (tmp_path / "out").exists()
    run(tmp_path, "analyze", "store=store", "out=out", *QUICK)
    (one,) = analysis(tmp_path / "out")["stores"].values()
    assert "density" in one["studies"]
    assert "neuron_correlation" not in one["studies"]
    assert analysis(tmp_path / "out")["evaluation"] is None


def truncated(store: Path) -> None:
    data = (store / "csr.values.npy").read_bytes()
    (store / "csr.values.npy").write_bytes(data[: len(data) // 2])


def flipped(store: Path) -> None:
    data = bytearray((store / "csc.values.npy").read_bytes())
    data[300] ^= 1
    (store / "csc.values.npy").write_bytes(data)


BAD: dict[str, tuple[list[str], list[str], Callable[[Path], None] | None]] = {
    "no store": (["store=nowhere"], ["store=nowhere", "no such folder", "sae_lightning.index"], None),
    "a run": (["store={run}"], ["is no feature store"], None),
    "cut off": (["store=copy"], ["csr.values.npy", "cut off or damaged"], truncated),
    "damaged": (["store=copy"], ["csc.values.npy", "is not as it was written"], flipped),
    "another SAE": (["store={store}", "sae={other}"], ["was made with another SAE"], None),
    "SAE gone": (["store={store}", "sae=gone"], ["sae=gone", "is not there"], None),
    "two SAEs of one store": (["store={store}", "sae=[{run},{run}]"], ["needs one for each of the 1 stores"], None),
    "the same store twice": (["store=[{store},{store}]"], ["given twice"], None),
    "no studies": (["store={store}", "studies=[]"], ["studies=[]", "none is chosen"], None),
    "unknown study": (["store={store}", "studies=[densities]"], ["studies=densities", "density"], None),
    "splitting of one": (["store={store}", "studies=[splitting]"], ["studies=splitting", "two"], None),
    "feature": (
        ["store={store}", "studies=[contexts]", "studies.contexts.features=[64]"],
        ["feature 64", "features 0 to 63"],
        None,
    ),
    "setting": (["store={store}", "studies.similarity.n=0"], ["studies.similarity.n=0"], None),
    "no concepts": (["store={store}", "studies=[completeness]"], ["studies.completeness.concepts"], None),
    "notes gone": (["store={store}", "notes=gone.json"], ["notes=gone.json"], None),
    "notes of other features": (["store={store}", "notes={notes}"], ["'999' is no feature", "0 to 63"], None),
    "explanations gone": (["store={store}", "explanations=gone.json"], ["explanations=gone.json", "interpret"], None),
    "no explanations": (["store={store}", "explanations={notes}"], ["is no file of explanations"], None),
    "explanations of another SAE": (["store={store}", "explanations={others}"], ["are of another SAE"], None),
    "too many explanations": (["store={store}", "explanations=[a,b]"], ["one for each of the 1 stores"], None),
    "out in the way": (["store={store}", "out={run}"], ["holds something that is no report"], None),
    "out is a file": (["store={store}", "out={notes}"], ["is a file"], None),
    "out in the store": (["store={store}", "out={store}/report"], ["lies in the store"], None),
    "a report there": (["store={store}", "out={report}", "report=false"], ["holds a report"], None),
    "device": (["store={store}", "device=foo", "studies=[density]"], ["device=foo", "auto"], None),
}


@pytest.fixture(scope="module")
def places(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    elsewhere = tmp_path_factory.mktemp("other")
    (elsewhere / "corpus.jsonl").write_bytes((folder / "corpus.jsonl").read_bytes())
    notes = elsewhere / "notes.json"
    notes.write_text(json.dumps({"999": "no such feature"}))
    other = train(elsewhere, "other", "seed=5")
    own = {name: folder / name for name in ("run", "store", "report")}
    others = explain(folder / "store", elsewhere / "explanations.json", sha256="another")
    return {**own, "other": other, "notes": notes, "others": others}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    command: Command, places: dict[str, Path], tmp_path: Path, case: str
) -> None:
    arguments, words, damage = BAD[case]
    if damage is not None:
        shutil.copytree(places["store"], tmp_path / "copy")
        damage(tmp_path / "copy")
    out = [] if any(argument.startswith("out=") for argument in arguments) else ["out=report"]
    done = command("analyze", *(argument.format(**places) for argument in arguments), *out)
    assert done.returncode == 2, (done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.strip() and " INFO " not in line]
    assert len(lines) == 1, done.stderr
    for word in ("error: ", *words):
        assert word in lines[0], lines[0]
    assert not (tmp_path / "report").exists()
    assert not done.stdout


def test_evaluate_says_that_a_question_is_one_of_a_store(command: Command, folder: Path) -> None:
    done = command("evaluate", f"sae={folder / 'run'}", "tokens=256", "out=e", "studies=[density]")
    assert done.returncode == 2
    assert "needs a feature store" in done.stderr
    assert "sae_lightning.analyze" in done.stderr

"""Searching features by command: every way, what it writes, and mistakes in one line."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from sae_lightning import search as entry
from sae_lightning.sae import formats
from sae_lightning.store import sae_sha256
from sae_lightning.studies.autointerp.explanations import Explanation, Explanations
from tests.studied_run import run, train

#: What must be shown as text: a tag, an escape of the terminal, and what turns text around.
EVIL = "<img src=x onerror=alert(1)> \x1b[31m \u202e river"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    train(folder)
    run(folder, "index", "sae=run", "store=store", "tokens=4096")
    sae = formats.read(str(folder / "run"))
    said = {
        3: (Explanation(EVIL, "a model", {"detection": 0.75}),),
        5: (Explanation("windows", "a model"),),
    }
    Explanations(sae_sha256(sae), said).save(folder / "explanations.json")
    np.save(folder / "vector.npy", sae.W_dec.detach().numpy()[7])
    np.save(folder / "wide.npy", np.ones(99))
    np.save(folder / "nan.npy", np.full(sae.d_out, np.nan))
    (folder / "river.txt").write_text("\ufeffthe river\na stone river\n\n  \ntree river\n")
    (folder / "stone.jsonl").write_text('{"text": "the stone"}\n"window"\n')
    (folder / "empty.txt").write_text("\n \n")
    (folder / "bad.jsonl").write_text('{"title": "no text"}\n')
    report = folder / "report"
    report.mkdir()
    (report / "feature.html").write_text("a page")
    return folder


@pytest.fixture
def searched(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the command in this process and returns (exit code, stdout, stderr)."""

    def searched(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["search", *arguments])
        GlobalHydra.instance().clear()
        capsys.readouterr()
        code = 0
        try:
            entry.main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return searched


def found_in(folder: Path, out: str) -> tuple[dict, list[dict]]:
    found = json.loads((folder / out / "search.json").read_text())
    table = found["tables"]["features"]
    return found, [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


WAYS = {
    "prompt": ["prompt=the river"],
    "last": ["prompt=1984", "token=mean"],
    "all": ["all=[the river,a river,the river]", "none=stone"],
    "files": ["all_file=river.txt", "none_file=stone.jsonl", "threshold=0.1"],
    "near": ["near=5"],
    "vector": ["near=vector.npy"],
    "attribute": ["attribute=the rive", "target=r", "against=x"],
    "influence": ["influence=the rive", "want=r", "space=false", "candidates=20"],
    "concept": ["concept=rivers"],
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_writes_a_table_json_and_a_page(way: str, folder: Path, searched: Callable) -> None:
    code, out, err = searched(
        "store=store", *WAYS[way], f"out=out_{way}", "report=report", "explanations=explanations.json", "n=7"
    )
    assert code == 0, err
    found, rows = found_in(folder, f"out_{way}")
    assert found["format"] == "sae_lightning.search"
    assert found["sae"]["name"] == "run"
    assert found["store"] == "store"
    assert 0 < len(rows) <= 7
    for row in rows:
        assert row["page"] == f"{(folder / 'report' / 'feature.html').as_uri()}?f={row['feature']}"
        assert row["explanation"] == (EVIL if row["feature"] == 3 else "windows" if row["feature"] == 5 else None)
        assert str(row["feature"]) in out
    page = (folder / f"out_{way}" / "search.html").read_text()
    links = re.findall(r'href="([^"]+)"', page)
    assert links == [f"../report/feature.html?f={row['feature']}" for row in rows]
    assert (folder / f"out_{way}" / links[0].partition("?")[0]).is_file()
    for text in (page, out):
        assert "\x1b[31m" not in text
        assert "\u202e" not in text
    assert "<img" not in page
    assert found["asked"]["n"] == 7
    if way == "files":
        assert found["asked"]["all"] == ["the river", "a stone river", "tree river"]
        assert found["asked"]["none"] == ["the stone", "window"]
    if way == "all":
        assert found["asked"]["all"] == ["the river", "a river"]
    if way in ("attribute", "influence"):
        assert "sign_agreement" in out
        assert "sign_agreement" in page
        assert found["estimates"]["sign_agreement"]["low"] is not None
    if way == "concept":
        assert [row["feature"] for row in rows] == [3]
    if way == "vector":
        assert rows[0]["feature"] == 7


def test_without_a_store_the_text_itself_is_the_base_rate(folder: Path, searched: Callable) -> None:
    code, _, err = searched("sae=run", "prompt=the river", "background_tokens=2048", "out=alone", "progress=false")
    assert code == 0, err
    found, rows = found_in(folder, "alone")
    assert found["store"] is None
    assert "fires_on" not in rows[0]
    assert found["asked"]["background_tokens"] == 2048
    assert re.search(r"base rate: [12],\d{3} tokens", " ".join(found["notes"]))


def test_neighbours_in_other_saes(folder: Path, searched: Callable) -> None:
    code, _, err = searched("sae=run", "near=5", "to=[run/export]", "out=across", "n=2")
    assert code == 0, err
    _, rows = found_in(folder, "across")
    assert len(rows) == 4
    assert (rows[2]["feature"], rows[2]["score"]) == (5, pytest.approx(1.0))
    assert rows[2]["sae"] != rows[0]["sae"] == "run"


def test_neighbours_elsewhere_are_refused(folder: Path, searched: Callable) -> None:
    for name, change in (("site", {"sites": {"write": ["blocks.2.hook_mlp_out"]}}), ("language model", {"lm": {}})):
        other = folder / f"another {name}"
        shutil.copytree(folder / "run" / "export", other, dirs_exist_ok=True)
        config = json.loads((other / "config.json").read_text())
        for key, value in change.items():
            config["metadata"][key] |= value or {"sha256": "0"}
        (other / "config.json").write_text(json.dumps(config))
        for where in ("sae=run", "store=store"):
            code, _, err = searched(where, "near=5", f"to=[{other}]")
            assert code == 2
            assert f"writes another {name} than run" in err


def test_the_same_search_gives_the_same_file(folder: Path, searched: Callable) -> None:
    for out in ("first", "second"):
        assert searched("store=store", "attribute=the rive", "target=r", f"out={out}")[0] == 0
    a, b = (found_in(folder, out)[0] for out in ("first", "second"))
    for name in ("tables", "estimates", "notes"):
        assert a[name] == b[name]


MISTAKES = {
    "nothing": ([], "exactly one way of searching"),
    "two": (["prompt=a", "near=1"], "prompt=... and near=...: needs exactly one way"),
    "only none": (["none=a"], "exactly one way"),
    "feature": (["near=64"], "near=64: this SAE has features 0 to 63"),
    "negative": (["near=-1"], "near=-1"),
    "no file": (["near=nowhere.npy"], "near=nowhere.npy: cannot be read"),
    "width": (["near=wide.npy"], "shape (99,)"),
    "nan": (["near=nan.npy"], "no direction"),
    "strength nan": (["influence=a", "want=b", "strength=nan"], "strength=nan"),
    "strength inf": (["influence=a", "want=b", "strength=inf"], "strength=inf"),
    "strength 0": (["influence=the", "want=b", "strength=0"], "strength=0.0"),
    "target": (["attribute=the rive", "target=rs"], "target='rs': must be a single token"),
    "against": (["attribute=the rive", "target=r", "against=r"], "is the target itself"),
    "no target": (["attribute=the rive"], "target: is needed by attribute=..."),
    "no want": (["influence=a"], "want: is needed by influence=..."),
    "stray": (["prompt=a", "target=b"], "target: goes with attribute=..."),
    "stray of two": (
        ["prompt=a", "float32=false"],
        "float32: goes with attribute=... and influence=..., not with prom",
    ),
    "stray seed": (["near=1", "seed=3"], "seed: goes with attribute"),
    "background": (["prompt=a", "background_tokens=5"], "background_tokens: store=store has the base rates"),
    "true": (["near=true"], "near=True: must be a feature's number"),
    "fraction": (["near=1e1"], "near=10.0: must be a feature's number"),
    "json": (["all_file=explanations.json"], "is JSON, not one prompt a line"),
    "in the store": (["prompt=a", "out=store/found"], "lies in the store"),
    "strength": (["influence=the rive", "want=r", "strength=1e300"], "strength=1e+300: the model's logits are no num"),
    "stray file": (["prompt=a", "none_file=x"], "none_file: goes with all=..."),
    "both": (["all=[a]", "all_file=river.txt"], "give one of both"),
    "no prompts": (["all_file=empty.txt"], "has no prompt in it"),
    "no text": (["all_file=bad.jsonl"], "line 1: has no text"),
    "gone": (["all_file=nowhere.txt"], "all_file=nowhere.txt: cannot be read"),
    "in both": (["all=[a b,c d]", "none=[c d]"], "is in all and in none"),
    "empty": (["prompt="], "prompt"),
    "long": (["attribute=" + "a" * 3000, "target=r"], "the language model reads"),
    "n": (["prompt=ab", "n=0"], "n=0"),
    "token": (["prompt=ab", "token=first"], "token='first'"),
    "threshold": (["all=ab", "threshold=2"], "threshold=2"),
    "no explanations": (["concept=river"], "explanations: is needed by concept=..."),
    "explanations": (["concept=river", "explanations=gone.json"], "explanations=gone.json: cannot be read"),
    "no words": (["concept=?", "explanations=explanations.json"], "has no word in it"),
    "report": (["prompt=ab", "report=store"], "report=store: holds no pages of features"),
    "out": (["prompt=ab", "out=river.txt"], "is a file"),
    "number": (["all=[1.50]"], "put it in quotes"),
    "interpolation": (["all=[${x}]"], "'x' not found"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(mistake: str, searched: Callable) -> None:
    arguments, message = MISTAKES[mistake]
    code, out, err = searched("store=store", "progress=false", *arguments)
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert message in lines[0]
    assert "Traceback" not in err
    assert not out.strip()


def test_mistakes_leave_no_folder(folder: Path, searched: Callable) -> None:
    assert searched("store=store", "near=64", "out=never")[0] == 2
    assert not (folder / "never").exists()


def test_as_a_user_runs_it(folder: Path) -> None:
    text = 'Well, it\'s the ("river") ${n} = [a'
    done = run(folder, "search", "store=store", f"prompt={text}", "n=3", "out=as_typed")
    assert found_in(folder, "as_typed")[0]["asked"]["prompt"] == text
    assert text in done.stdout.replace("\\'", "'")
    wrong = run(folder, "search", "prompt=river", check=False)
    assert wrong.returncode == 2
    assert wrong.stderr == "error: sae: is needed, or a feature store of it; set sae=... or store=...\n"

"""Steering by command: what it prints and writes, and mistakes in one line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae_lightning.build import steering as build
from sae_lightning.sae import formats
from sae_lightning.store import FeatureStore, open_reader, sae_sha256
from sae_lightning.studies.autointerp.explanations import Explanation, Explanations
from sae_lightning.studies.steering.edits import clamp, scale
from sae_lightning.studies.steering.generate import generate
from sae_lightning.studies.steering.sampling import Sampling
from sae_lightning.studies.steering.steering import Steering
from tests.studied_run import run_here, train_here

#: What must be shown as text: a tag, an escape of the terminal, and what turns text around.
EVIL = "<img src=x onerror=alert(1)> \x1b[31m \u202e river"
SHORT = ("max_tokens=6", "n=2", "progress=false")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steer")
    train_here(folder)
    assert run_here(folder, "index", "sae=run", "store=store", "tokens=4096")[0] == 0
    sae = formats.read(str(folder / "run"))
    said = {fires(folder): (Explanation(EVIL, "a model"),)}
    Explanations(sae_sha256(sae), said).save(folder / "explanations.json")
    (folder / "prompts.txt").write_text("the river\n<b>a stone</b> \x1b[31m\n")
    (folder / "empty.txt").write_text("\n \n")
    return folder


def fires(folder: Path) -> int:
    """The feature that fires the most."""
    return int(FeatureStore.open(folder / "store").stats.count.argmax())


@pytest.fixture
def steered(folder: Path) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the command in this process and returns (exit code, stdout, stderr)."""
    return lambda *arguments: run_here(folder, "steer", *arguments)


def written(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name / "steering.json").read_text())


def test_texts_are_written_side_by_side_and_are_those_that_python_gives(folder, steered) -> None:
    feature = fires(folder)
    other = (feature + 1) % 64
    code, out, _ = steered(
        "store=store",
        "prompt=the river",
        f"clamp={{{feature}:2x}}",
        f"scale={{{other}:0}}",
        "reconstruct=true",
        "out=found",
        "explanations=explanations.json",
        *SHORT,
    )
    assert code == 0
    found = written(folder, "found")
    (group,) = found["groups"]
    assert [variant["name"] for variant in group["variants"]] == ["unsteered", "reconstruction", "steered"]
    store = FeatureStore.open(folder / "store")
    reader = open_reader(store.facts, str(folder / "run"), "store")
    largest = float(store.stats.largest[feature])
    edits = {feature: clamp(2 * largest), other: scale(0)}
    ids = reader.cut("the river")[1]
    sampling = Sampling(max_tokens=6)
    ways = (None, Steering(reader, {}, keep_error=False), Steering(reader, edits))
    for variant, steering in zip(group["variants"], ways, strict=True):
        for sample, one in zip(variant["samples"], generate(reader, ids, steering, sampling, 2), strict=True):
            assert sample["token_ids"] == one.token_ids.tolist()
            assert sample["logprobs"] == [float(f"{value:.4g}") for value in one.logprobs]
    by_feature = {one["feature"]: one for one in found["features"]}
    assert by_feature[feature]["edit"] == f"clamp 2x ({2 * largest:.4g})"
    assert by_feature[feature]["maximum"] == pytest.approx(largest)
    assert by_feature[feature]["explanation"] == EVIL
    assert by_feature[other]["edit"] == "scale 0"
    assert found["settings"]["seed"] == 0
    assert f"feature {feature} (<img src=x onerror=alert(1)>" in out
    assert "unsteered" in out
    assert not re.search(r"[\x1b\u202e]", out), "nothing that a terminal would act on"
    page = (folder / "found" / "steering.html").read_text()
    assert "<img src=x" not in page
    assert "found/steering.html" in out


def test_edits_that_change_nothing_write_the_unsteered_text_and_seeds_others(folder, steered) -> None:
    for seed in ("0", "1"):
        code, _, err = steered(
            "sae=run", "prompt_file=prompts.txt", "scale={3:1}", f"seed={seed}", f"out=s{seed}", *SHORT
        )
        assert code == 0, err
    first, second = (written(folder, name)["groups"][0]["variants"] for name in ("s0", "s1"))
    assert first[0]["samples"] == first[1]["samples"]
    assert first[0]["samples"] != second[0]["samples"]
    assert {sample["prompt"] for sample in first[0]["samples"]} == {0, 1}
    steered("sae=run", "prompt_file=prompts.txt", "scale={3:1}", "cached=false", "out=s2", *SHORT)
    assert written(folder, "s2")["groups"][0]["variants"] == first


def test_without_out_nothing_is_written_and_a_prompt_is_shown_as_text(folder, steered) -> None:
    before = sorted(folder.iterdir())
    code, out, _ = steered("sae=run", "prompt_file=prompts.txt", "add={3:1.5}", "positions=generated", *SHORT)
    assert code == 0
    assert "<b>a stone</b> ␛[31m" in out
    assert sorted(path for path in folder.iterdir() if path.name != "outputs") == before


@pytest.mark.parametrize(
    ("typed", "prompts"),
    [
        ("Well, [so] {x} \"y\" ${z}: 'q'", ["Well, [so] {x} \"y\" ${z}: 'q'"]),
        ("1984", ["1984"]),
        ('["I am a", "Well, yes"]', ["I am a", "Well, yes"]),
    ],
)
def test_a_prompt_is_what_was_typed_and_several_are_a_list(typed, prompts, folder, steered) -> None:
    code, _, err = steered(
        "sae=run", f"prompt={typed}", "scale={3:1}", "out=typed", "max_tokens=1", "n=1", "progress=false"
    )
    assert code == 0, err
    assert written(folder, "typed")["prompts"] == prompts


def test_a_file_of_texts_has_no_line_for_each_number(folder, steered) -> None:
    steered("sae=run", "prompt=river", "scale={3:1}", "out=file", *SHORT)
    lines = (folder / "file" / "steering.json").read_text().splitlines()
    assert sum(line.strip().startswith('"nats": [') and line.endswith("],") for line in lines) == 4
    assert not any(re.fullmatch(r"\s*-?[\d.]+,?", line) for line in lines)


def test_what_interrupts_it_leaves_no_folder(folder, steered, monkeypatch) -> None:
    def interrupted(config) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "steer", interrupted)
    code, _, err = steered("sae=run", "prompt=river", "scale={3:1}", "out=never")
    assert (code, err.splitlines()[-1]) == (130, "interrupted")
    assert not (folder / "never").exists()


def test_a_dose_response_is_a_table_and_a_page(folder, steered) -> None:
    feature = fires(folder)
    code, out, err = steered(
        "store=store", f"features=[{feature}]", "dose=[0,2]", 'concept=["river"]', "draws=100", "out=dose", *SHORT
    )
    assert code == 0, err
    found = written(folder, "dose")
    assert found["dose"]["tables"]["doses"]["rows"]
    assert [variant["name"] for variant in found["groups"][0]["variants"]] == ["as is", "0x", "2x"]
    assert "Text under each strength" in out
    assert (folder / "dose" / "steering.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prompt=river", "clamp={3:1}"], "sae: is needed"),
        (["sae=run", "clamp={3:1}"], "prompt: is needed"),
        (["sae=run", "prompt=river"], "nothing is steered"),
        (["sae=run", "prompt=river", "clamp={64:1}"], "feature 64: this SAE has features 0 to 63"),
        (["sae=run", "prompt=river", "clamp={-1:1}"], "feature -1"),
        (["sae=run", "prompt=river", "clamp={x:1}"], "clamp"),
        (["sae=run", "prompt=river", "clamp=3"], "clamp"),
        (["sae=run", "prompt=river", "clamp={3:true}"], "clamp.3=True"),
        (["sae=run", "prompt=river", "clamp={3:nan}"], "feature 3, clamp strength nan: must be a finite number"),
        (["sae=run", "prompt=river", "add={3:-inf}"], "feature 3, add strength -inf: must be a finite number"),
        (["sae=run", "prompt=river", "scale={3:much}"], "strength 'much'"),
        (["sae=run", "prompt=river", "scale={3:2x}"], "scale 2x"),
        (["sae=run", "prompt=river", "clamp={3:10x}"], "give store="),
        (["sae=run", "prompt=river", "clamp={3:1}", "add={3:1}"], "feature 3: is edited twice"),
        (["sae=run", "prompt=", "clamp={3:1}"], "prompt"),
        (["sae=run", "prompt=river", "prompt_file=prompts.txt", "clamp={3:1}"], "give one of both"),
        (["sae=run", "prompt_file=empty.txt", "clamp={3:1}"], "has no prompt"),
        (["sae=run", "prompt_file=gone.txt", "clamp={3:1}"], "cannot be read"),
        (["sae=run", "prompt=river", "clamp={3:1}", "max_tokens=5000"], "reads at most"),
        (["sae=run", "prompt=river", "clamp={3:1}", "max_tokens=0"], "max_tokens"),
        (["sae=run", "prompt=river", "clamp={3:1}", "n=0"], "n"),
        (["sae=run", "prompt=river", "clamp={3:1}", "temperature=-1"], "temperature"),
        (["sae=run", "prompt=river", "clamp={3:1}", "temperature=nan"], "temperature"),
        (["sae=run", "prompt=river", "clamp={3:1}", "top_p=0"], "top_p"),
        (["sae=run", "prompt=river", "clamp={3:1}", "positions=first"], "all, prompt, generated"),
        (["sae=run", "prompt=river", "clamp={3:1}", "positions=[5]", "max_tokens=6"], "beyond the prompt"),
        (["sae=run", "prompt=river", "clamp={3:1}", "positions=[-1]"], "count from 0"),
        (["sae=run", "prompt=river", "clamp={3:1}", "positions=[]"], "positions=[]"),
        (["sae=run", "prompt=river", "clamp={3:1}", "positions=[true]"], "positions"),
        (
            ["store=store", "dose=[1]", "features=[3]", "prompt=river", "positions=[9]", "max_tokens=6"],
            "beyond the prompt",
        ),
        (["sae=run", "prompt=river", "clamp={3:1}", "clmap={3:1}"], "clmap: unknown key; did you mean 'clamp'"),
        (["sae=run", "prompt=river", "clamp={3:1}", "out=prompts.txt"], "is a file"),
        (["sae=run", "prompt=river", "clamp={3:1}", "features=[3]"], "goes with dose"),
        (["store=store", "dose=[1,2]"], "features: is needed"),
        (["sae=run", "dose=[1,2]", "features=[3]"], "store: is needed"),
        (["store=store", "dose=[1,nan]", "features=[3]"], "dose"),
        (["store=store", "dose=[1,2]", "features=[64]"], "feature 64"),
        (["store=store", "dose=[1,2]", "features=[3,3]"], "names one twice"),
        (["store=store", "dose=[1,2]", "features=[3]", "clamp={3:1}"], "does not go with dose"),
        (["store=gone", "prompt=river", "clamp={3:1}"], "gone"),
        (["sae=gone", "prompt=river", "clamp={3:1}"], "gone"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(arguments, said, folder, steered) -> None:
    code, out, err = steered(*arguments, *([] if "out=prompts.txt" in arguments else ["out=never"]))
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2, err
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in err
    assert not out
    assert not (folder / "never").exists()


def test_a_strength_beyond_ten_times_the_maximum_is_said_and_let_pass(folder, steered) -> None:
    feature = fires(folder)
    code, _, err = steered("store=store", "prompt=river", f"clamp={{{feature}:-50x}}", *SHORT)
    assert code == 0
    assert err.count("beyond 10 times its maximum") == 1


@pytest.mark.parametrize("sites", ["transcoder", "crosscoder", "diff"])
def test_transcoders_and_crosscoders_are_steered_and_sae_of_two_models_refused(sites, folder, steered) -> None:
    more = {"crosscoder": ["sites.layers=[0,1]"], "diff": ["sites.tuned.name=tiny"]}.get(sites, [])
    train_here(folder, sites, f"sites={sites}", *more)
    as_is = ("scale={3:1}", "reconstruct=true", f"out=of_{sites}", *SHORT)
    code, _, err = steered(f"sae={sites}", "prompt=the river", *as_is)
    if sites == "diff":
        assert code == 2
        assert [line for line in err.splitlines() if "two language models" in line]
        return
    assert code == 0, err
    plain, spliced, same = (variant["samples"] for variant in written(folder, f"of_{sites}")["groups"][0]["variants"])
    assert plain == same
    assert [sample["logprobs"] for sample in spliced] != [sample["logprobs"] for sample in plain]
    code, _, err = steered(f"sae={sites}", "prompt=the river", "clamp={3:9}", f"out=of_{sites}", *SHORT)
    assert code == 0, err
    plain, pushed = (variant["samples"] for variant in written(folder, f"of_{sites}")["groups"][0]["variants"])
    assert [sample["logprobs"] for sample in pushed] != [sample["logprobs"] for sample in plain]

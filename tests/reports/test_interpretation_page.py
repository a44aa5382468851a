"""The page of an interpretation: everything that was found is on it, and what others wrote is text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sae_lightning.core import Estimate
from sae_lightning.reports.interpretation_figures import Curve, level_curves
from sae_lightning.reports.interpretation_page import interpretation_page, write_interpretation_page
from sae_lightning.reports.interpretation_table import by_score, show_interpretation
from sae_lightning.studies.study import Result, Table
from tests.store.planted import HOSTILE


def unit(kind: str, index: int, text: str | None, grade: float | None, pieces: list[str]) -> dict[str, Any]:
    scores = None if text is None else {"values": {"grade": grade}, "asked": 5, "usable": 4}
    return {
        "unit": f"{kind} {index}",
        "kind": kind,
        "index": index,
        "layer": -1 if kind == "feature" else 3,
        "largest": 9.5,
        "density": 0.01,
        "floor": 0.0,
        "explanation": None if text is None else {"text": text, "by": HOSTILE, "scores": {}},
        "scores": {"rubric": scores},
        "shuffled_from": None,
        "shuffled": {"rubric": None},
        "examples": [{"pieces": pieces, "values": [0.0, 4.0, 8.0][: len(pieces)], "level": 4, "text": 1}],
    }


@pytest.fixture
def said() -> dict[str, Any]:
    columns = ("scorer", "group", "level", "right", "measure", "mean", "low", "high", "units")
    rows = [
        ("rubric", group, level, None, "said", 1.5, 1.0, 2.0, 2)
        for group in ("features", "neurons")
        for level in (0, 1)
    ]
    result = Result(
        {
            "explained/features": Estimate(0.5, 0.1, 0.9, 2),
            "rubric_grade/features": Estimate(1.75, 1.5, 2.0, 2),
            "rubric_grade/neurons": Estimate(None, None, None, 0),
            "rubric_grade/features-neurons": Estimate(0.25, -0.5, 1.0, 1),
            "rubric_usable/features": Estimate(0.8, None, None, 2),
        },
        {"levels": Table(columns, tuple(rows))},
    )
    return {
        "created": "2026-01-02T03:04:05+0000",
        "sae": {"name": HOSTILE.replace("\ud800", ""), "sha256": "0"},
        "lm": None,
        "store": "news",
        "tokens": 1000,
        "explainer": HOSTILE.replace("\ud800", ""),
        "client": None,
        "prompt_version": 1,
        "usage": {
            "requests": 9, "answered": 7, "kept": 1, "prompt_tokens": 5, "completion_tokens": 6, "cost": 0.125,
            "problems": {"empty": 2}, "seconds": 1.0,
        },
        "seed": 0,
        "draws": 200,
        "record": {"context": 32},
        "result": result.to_json(),
        "units": [
            unit("feature", 4, HOSTILE.replace("\ud800", ""), 2.0, ["a", " <script>alert(1)</script>", "\u202e"]),
            unit("feature", 11, None, None, ["a", " bee"]),
            unit("neuron", 5, "bees & <b>wasps</b>", None, ["a"]),
        ],
    }  # fmt: skip


def test_what_was_found_is_on_the_page(said: dict[str, Any], tmp_path: Path) -> None:
    write_interpretation_page(tmp_path / "index.html", said)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for words in (
        "Interpretation of 2 features and 1 neurons",
        "feature 11",
        "neuron 3.5",
        "1.75",
        "[1.5, 2]",
        "4 of 5",
    ):
        assert words in page
    for words in ("9, 7 answered; 1 kept from before", "0.1250", "2 empty", "features - neurons 0.25 [-0.5, 1]"):
        assert words in page
    assert "4 of 5" in page
    assert "<i>none</i>" in page
    assert page.count("<polyline") == 2


def test_text_from_outside_is_text(said: dict[str, Any]) -> None:
    page = interpretation_page(said)
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert "<b>wasps" not in page
    assert "bees &amp; &lt;b&gt;wasps&lt;/b&gt;" in page
    body = page[page.index("<body>") : page.index("<script>")]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e\u2028\u2029]", body)
    assert '<b style="--s:35"> &lt;script&gt;alert(1)&lt;/script&gt;</b>' in page


def test_without_a_client_scores_or_levels_there_is_still_a_page(said: dict[str, Any]) -> None:
    said["usage"], said["result"] = None, Result({}).to_json()
    for one in said["units"]:
        one["scores"] = {}
    page = interpretation_page(said)
    assert "nobody" in page
    assert "By level" not in page


def test_the_table_names_groups_and_prints_no_controls(
    said: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    show_interpretation(said)
    shown = capsys.readouterr().out
    assert "features - neurons" in shown
    assert "1.75" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert list(by_score(said)) == ["explained", "rubric_grade", "rubric_usable"]
    json.dumps(said["result"])


def test_a_curve_without_levels_is_none() -> None:
    assert level_curves([Curve("features", {}, 0)], 1.0, "label") == ""

"""The page of steering stands alone, shows figures with their intervals and texts by token, and runs none of them."""

import json
import re
from pathlib import Path

import pytest

from sae_lightning.reports.dose_figures import Curve, Point, curves
from sae_lightning.reports.evaluation_data import short
from sae_lightning.reports.steering_page import steering_page, write_steering_page
from sae_lightning.reports.steering_samples import SHOWN
from tests.reports.example_steering import FIGURES, STRENGTHS, steering
from tests.reports.reader import Reader

EVIL = "<script>alert('x')</script>\"'&"


def as_read(value: dict) -> dict:
    """What a page has to work from: nothing but JSON."""
    return json.loads(json.dumps(value, allow_nan=False))


@pytest.mark.parametrize("dose", [True, False])
def test_the_page_needs_nothing_beside_it_and_shows_hostile_text_as_text(tmp_path: Path, dose: bool) -> None:
    path = tmp_path / "steering.html"
    write_steering_page(path, as_read(steering(2, EVIL, dose)))
    page = path.read_text()
    reader = Reader(page)
    assert reader.open == []
    assert reader.tags.count("script") == reader.tags.count("style") == 1
    assert "<script>alert" not in page
    assert reader.text.count(EVIL) >= 5 + 6 * 2  # name, path, language model, concept, note; a token of each sample
    assert reader.addresses == []
    assert "http" not in page
    assert "url(" not in page


def test_characters_that_are_not_seen_are_shown() -> None:
    text = Reader(steering_page(steering(1, "\u202e\x1b[31m", dose=False))).text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert "[U+202E]" in text


def test_every_figure_of_every_strength_is_there_with_its_interval() -> None:
    example = as_read(steering(3))
    text = Reader(steering_page(example)).text
    for figure in FIGURES:
        assert f"\n{figure}\n" in text
    for name, one in example["dose"]["estimates"].items():
        assert f"{short(one['value'])} \n[{short(one['low'])}, {short(one['high'])}]" in text, name


def test_each_feature_has_a_curve_of_its_own_in_colour_and_mark() -> None:
    page = steering_page(as_read(steering(5)))
    figures = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    assert len(figures) == 5
    for figure in figures:
        assert figure.count("<polyline") == 5
        for i in range(5):
            assert figure.count(f'stroke="var(--c{i})" stroke-width="1.5"') == len(STRENGTHS) + 1  # and as is
        # As it is, no line leads to the strengths.
        assert all(line.count(",") == len(STRENGTHS) for line in re.findall(r'points="([^"]*)" fill="none"', figure))
        for x, y in re.findall(r'c[xy]="([\d.-]+)" cy="([\d.-]+)"', figure):
            assert 0 <= float(x) <= 460
            assert 0 <= float(y) <= 250
    assert len(re.findall(r"<title>feature 10 \(river\), 5x: 0.84", page)) >= 1


def test_samples_stand_by_strength_and_tokens_tell_their_activation() -> None:
    example = as_read(steering(1))
    page = steering_page(example)
    part = page[page.index("<section class=samples>") :]
    rows = re.findall(r"<th scope=row>([^<]*)</th>", part)
    assert rows == ["as is", *(f"{s:g}x" for s in sorted(STRENGTHS))]
    assert part.count("<td dir=auto>") == len(rows) * 2 * SHOWN
    sample = example["groups"][0]["variants"][-1]["samples"][0]
    value = sample["values"][0][0]
    assert f"feature 10: {short(value)} ({100 * value / 8:.0f} % of its maximum), log p -1.5, unsteered" in part
    assert f"--a:{min(1, value / 8):.2f}" in part
    assert "left out by the mask" in part


def test_one_steered_text_stands_beside_the_others() -> None:
    example = as_read(steering(2, dose=False))
    page = steering_page(example)
    part = page[page.index("<section class=samples>") :]
    heads = re.findall(r"<th scope=col>(\w+)", part)
    assert heads == ["sample", "unsteered", "reconstruction", "steered"]
    assert part.count("<th scope=row>") == 6
    assert "Dose-response" not in page
    assert "feature 10: clamp 5x (40); feature 11: clamp 5x (40)" in part
    text = Reader(page).text
    for variant in example["groups"][0]["variants"]:
        for sample in variant["samples"]:
            assert sample["pieces"][5].strip() in text


def test_what_is_not_defined_is_not_drawn() -> None:
    example = steering(1)
    for name, one in example["dose"]["estimates"].items():
        if name.startswith(("steered_words", "steered_word_rate")) or name.endswith("10x"):
            one["value"] = one["low"] = one["high"] = None
    page = steering_page(as_read(example))
    assert Reader(page).open == []
    assert page.count("<figure>") == 3
    assert "steered_activation/10" not in page


@pytest.mark.parametrize("log", [False, True])
def test_curves_stay_inside_and_skip_what_has_no_place(log: bool) -> None:
    points = (Point(0, 3.0, 2.0, 900.0), Point(1, 0.0, None, None), Point(2, float("inf"), None, None))
    drawn = curves([Curve("one", 0, points)], ["as is", "1x", "2x"], "label", log=log)
    assert drawn.count("<circle") == (1 if log else 2)
    for y in re.findall(r'y[12]?="([\d.-]+)"', drawn):
        assert 0 <= float(y) <= 250
    assert curves([Curve("one", 0, ())], ["1x"], "label", log=log) == ""


@pytest.mark.parametrize("values", [[5.0], [0.0], [0.3, 7e5], [1e-4, 2e-4], [-3.0, 4.0]])
def test_scales_hold_their_values(values: list[float]) -> None:
    points = tuple(Point(i, v, v, v) for i, v in enumerate(values))
    for log in (False, True):
        drawn = curves([Curve("one", 0, points)], ["a", "b"], "label", log=log)
        if not log or max(values) > 0:
            assert drawn.count("<line class=grid") >= 2
            assert drawn.count("<circle") == sum(v > 0 or not log for v in values)


def test_words_of_a_concept_come_from_the_settings_too() -> None:
    for words in (["sea", "<b>ocean"], {"10": ["sea", "<b>ocean"]}, {10: ["sea", "<b>ocean"]}):
        example = steering(2)
        for one in example["features"]:
            del one["concept"]
        example["settings"]["concept"] = words
        text = Reader(steering_page(example)).text
        assert "feature 10 (sea, <b>ocean)" in text
        assert text.count("sea, <b>ocean\n") == (2 if isinstance(words, list) else 1)  # in the table of features

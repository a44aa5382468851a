"""The page of an evaluation stands alone, shows every figure with its interval, and escapes what runs say."""

import json
import re
from pathlib import Path

import pytest

from sae_lightning.reports import write_evaluation_html
from sae_lightning.reports.evaluation_figures import Mark, bars, histogram, whiskers
from sae_lightning.reports.evaluation_html import evaluation_page
from sae_lightning.reports.evaluation_sections import MOST_ROWS
from sae_lightning.studies.evaluation.compare import COLUMNS, SAME
from tests.reports.example_evaluation import VALUES, comparison, evaluation, table
from tests.reports.reader import Reader

EVIL = "<script>alert('x')</script>\"'&"


def as_read(value: dict) -> dict:
    """What a page has to work from: nothing but JSON."""
    return json.loads(json.dumps(value, allow_nan=False))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_page_needs_nothing_beside_it_and_escapes_what_runs_say(tmp_path: Path, n: int) -> None:
    path = tmp_path / "evaluation.html"
    write_evaluation_html(path, as_read(evaluation(n, EVIL)))
    page = path.read_text()
    reader = Reader(page)
    assert reader.open == []
    assert reader.tags.count("script") == reader.tags.count("style") == 1
    assert "<script>alert" not in page
    assert not re.search(r"alert\('x'\)[^&]*\"'&[^a#]", page)
    assert reader.text.count(EVIL) >= 5  # name, path, language model, data, note: shown as text
    assert reader.addresses == []
    assert "http" not in page
    assert "url(" not in page


def test_every_figure_is_there_with_its_interval() -> None:
    text = Reader(evaluation_page(as_read(evaluation()))).text
    for study, values in VALUES.items():
        assert f"\n{study}\n" in text
        for name, value in values.items():
            assert f"\n{name}\n" in text
            if value is not None:
                assert f"\n{value:.4g}\n{value * 0.98:.4g}\n{value * 1.026:.4g}\n" in text  # value, low, high
    assert "left out: token ids 0, 1, 2; a window's first position; norms above 10 times the median 27.3" in text
    assert "131,072" in text
    assert "sha256 000000000000\n" in text  # enough of it
    assert "sampled 20 of 3,921 features" in text


def test_pictures_are_drawn_inside_the_page() -> None:
    page = evaluation_page(evaluation())
    for label in ("fvu", "cross-entropy, nats a token", "Features by log10"):
        assert re.search(rf'<svg[^>]*aria-label="{label}', page), label
    for place in re.findall(r'(?:x1|x2|cx|x|width)="(-?[\d.]+)%"', page):
        assert 0 <= float(place) <= 100


def test_several_saes_stand_side_by_side_with_marks_where_they_cannot_be_told_apart() -> None:
    page = evaluation_page(as_read(evaluation(3)))
    text = Reader(page).text
    # fvu of the example: the first is better than each; explained_variance: told apart by nothing.
    card = page[page.index("<h3>fvu</h3>") : page.index("</section>", page.index("<h3>fvu</h3>"))]
    assert card.count("<circle") == 3
    assert "sae 0 <span class=word>best" in card
    assert "≈" not in card
    card = page[page.index("<h3>cosine</h3>") : page.index("</section>", page.index("<h3>cosine</h3>"))]
    assert card.count("≈ best") == 3  # of the best as well: it is not surely so
    assert card.count('fill="var(--panel)"') == 3  # hollow
    assert "indistinguishable" in text
    assert "sae 0 better" in text


def test_only_what_is_surely_different_is_shaded() -> None:
    page = evaluation_page(evaluation(2))
    part = page[page.index("<h2>compare</h2>") :]
    rows = re.findall(r"<tr( class=best)?>(.*?)</tr>", part)
    verdicts = [(bool(mark), SAME in row) for mark, row in rows if "better" in row or SAME in row]
    assert verdicts
    assert all(shaded != same for shaded, same in verdicts)


def test_the_example_has_the_columns_of_the_comparison() -> None:
    assert tuple(comparison(["a", "b"])["tables"]["differences"]["columns"]) == COLUMNS


def test_probes_stand_between_floor_and_ceiling() -> None:
    text = Reader(evaluation_page(evaluation())).text
    start = text.index("news_source: accuracy (chance 0.5)")
    names = [line for line in text[start:].splitlines()[1:] if line and not re.match(r"[\d.\[]|accuracy", line)]
    assert names[:4] == [f"floor: random features, k = {k}" for k in (1, 2, 5)] + ["best single feature"]
    assert names[4:8] == ["features, k = 1", "features, k = 2", "features, k = 5", "ceiling: activations"]


def test_a_long_table_is_cut_and_says_so() -> None:
    one = evaluation()
    rows = [[i, float(i)] for i in range(MOST_ROWS + 50)]
    one["saes"]["sae 0"]["studies"]["groundtruth"]["tables"]["latents"] = table(["latent", "f1"], rows, "Latents")
    text = Reader(evaluation_page(as_read(one))).text
    assert f"The first {MOST_ROWS} of {MOST_ROWS + 50} rows; evaluation.json has all." in text
    assert f"\n{MOST_ROWS - 1}\n" in text
    assert f"\n{MOST_ROWS + 1}\n" not in text


def test_an_evaluation_with_little_in_it_still_makes_a_page() -> None:
    one = evaluation()
    sae = one["saes"]["sae 0"]
    for key in ("lm", "sites", "mask", "data"):
        sae[key] = None
    sae["studies"] = {"later_study": {"estimates": {}, "tables": {}, "notes": ["nothing found"]}}
    one["environment"] = {}
    reader = Reader(evaluation_page(as_read(one)))
    assert reader.open == []
    assert "nothing found" in reader.text
    assert "Key figures" not in reader.text


@pytest.mark.parametrize("n", [2, 3])
def test_saes_that_were_not_asked_the_same(n: int) -> None:
    several = evaluation(n)
    del several["saes"]["sae 1"]["studies"]["downstream"]
    several["comparisons"] = {}
    page = evaluation_page(as_read(several))
    assert Reader(page).open == []
    card = page[page.index("<h3>delta_ce</h3>") : page.index("</section>", page.index("<h3>delta_ce</h3>"))]
    assert card.count("<circle") == n - 1
    assert "best" not in card  # nothing was compared


def test_drawings_of_nothing_are_nothing() -> None:
    from sae_lightning.reports.evaluation_data import Figure

    nothing = Mark("a", Figure(None, None, None, 0))
    assert whiskers([nothing], "x") == bars([nothing], "x") == histogram([], [], [], "x") == ""
    assert histogram([0.0], [1.0], [0], "x") == ""
    without_interval = whiskers([Mark("a", Figure(0.0, None, None, 5))], "x")
    assert "<line" not in without_interval
    assert 'cx="50.00%"' in without_interval

"""What the page shows of several sites: a histogram of shares, one of nu, tables of features."""

import json
import re

from sae_lightning.reports.evaluation_html import evaluation_page
from sae_lightning.studies.evaluation import LatentScalingStudy, SitesStudy
from tests.reports.example_evaluation import evaluation
from tests.reports.reader import Reader
from tests.studies.planted_pair import pair, reader, subject


def test_shares_and_nu_are_drawn_and_listed() -> None:
    model = pair()
    about = subject(reader(model), model)
    shown = evaluation()
    studies = shown["saes"]["sae 0"]["studies"]
    for study in (SitesStudy(show_progress=False), LatentScalingStudy(show_progress=False)):
        studies[study.name] = study.run(about).to_json()
    page = evaluation_page(json.loads(json.dumps(shown, allow_nan=False)))
    found = Reader(page)
    assert found.open == []
    for label in ("tuned: share of the decoder norm", "nu_error of 16 features"):
        (drawn,) = re.findall(rf'<svg[^>]*aria-label="{label}.*?</svg>', page, re.DOTALL)
        told = [int(n) for n in re.findall(r"<title>[^<]*: (\d+)</title>", drawn)]
        assert sum(told) == 16, label
    assert (
        found.text.index("\nreconstruction\n") < found.text.index("\nsites\n") < found.text.index("\nlatent_scaling\n")
    )
    for name in studies["sites"]["estimates"]:
        assert f"\n{name}\n" in found.text
    assert found.text.count("tuned only") >= 12, "in three columns of two tables, and among the figures"


def test_several_sites_have_a_histogram_each() -> None:
    shown = evaluation()
    columns = ["from", "to", "blocks.8", "blocks.9", "blocks.10"]
    rows = [[0.0, 0.5, 3, 1, 0], [0.5, 1.0, 1, 3, 4]]
    shown["saes"]["sae 0"]["studies"]["sites"] = {
        "estimates": {},
        "tables": {"share_histogram": {"columns": columns, "rows": rows, "caption": "shares"}},
        "notes": [],
    }
    page = evaluation_page(shown)
    for name in columns[2:]:
        assert f'aria-label="{name}: shares"' in page

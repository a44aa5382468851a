"""Cells of a search's table as they are shown."""

from sae_lightning.reports.search_columns import cell_text
from sae_lightning.reports.search_page import search_page
from tests.conftest import ROOT


def test_cells_show_spaces_and_end_where_they_are_long() -> None:
    assert cell_text("token", " the") == "' the'"
    assert cell_text("token", "\n\u202e") == r"'\n\u202e'"
    assert cell_text("explanation", " the\u202e") == " the[U+202E]"
    assert cell_text("explanation", "x" * 300) == "x" * 300
    assert cell_text("explanation", "x" * 301) == "x" * 300 + "..."
    assert cell_text("score", 1.23456) == "1.235"
    assert cell_text("page", None) == ""


def test_only_texts_of_several_words_are_given_room() -> None:
    columns = ["feature", "score", "token", "fires_on", "explanation"]
    found = {
        "way": "prompt",
        "tables": {"features": {"caption": "c", "columns": columns, "rows": [[1, 2.0, " <b>", "'a'", "&" * 400]]}},
        "report": None,
        "sae": {"name": "s"},
        "store": None,
        "created": "2026-01-01T00:00:00",
        "seconds": 1.0,
        "estimates": {},
        "notes": [],
        "asked": {"prompt": "p"},
    }
    page = search_page(found, ROOT)
    assert "<td>&#x27; &lt;b&gt;&#x27;</td>" in page
    assert "<td class=text>&#x27;a&#x27;</td>" in page
    assert f"<td class=text>{'&amp;' * 300}...</td>" in page

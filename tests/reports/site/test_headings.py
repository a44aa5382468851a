"""Columns mean what they mean in their study, and figures say what they count."""

from sae_lightning.reports.site.headings import column_meaning
from sae_lightning.reports.site.tables import shown_table
from sae_lightning.reports.site.units import over
from sae_lightning.studies.meaning import MEANING, meaning


def heads(study: str, *columns: str) -> dict[str, str]:
    found = shown_table("t", {"columns": list(columns), "rows": [[1] * len(columns)]}, study=study)
    return {text: said for text, said, _ in found.heads}


def test_a_column_has_the_meaning_of_its_study_and_never_a_metrics() -> None:
    said = heads("similarity", "feature", "neighbour", "cosine", "unheard of")
    assert said["cosine"] == "cosine of the two decoder directions"
    assert said["unheard of"] == ""
    assert "reconstruction" in meaning("cosine")
    for study in ("similarity", "neighbourhoods", "splitting", "consistency", "closest", "groundtruth"):
        assert column_meaning(study, "cosine") not in ("", meaning("cosine"))
    assert set(heads("", *MEANING).values()) == {""}
    assert set(heads("later_study", *MEANING).values()) == {""}


def test_a_number_of_what_was_counted_has_its_unit() -> None:
    for study, word in (
        ("density", "tokens"),
        ("reconstruction", "tokens"),
        ("sparsity", "tokens"),
        ("downstream", "tokens"),
        ("similarity", "features"),
        ("neuron_correlation", "features"),
        ("splitting", "features"),
        ("completeness", "concepts"),
    ):
        assert over(study, [1234]) == f"1,234 {word}"
    assert over("density", {"a": 1234, "b": 1234}) == "1,234 tokens"
    assert over("density", {"a": 1234, "b": 99}) == "1,234 (a), 99 (b) tokens"
    assert over("density", [1234, 99]) == "1,234 and 99 tokens"
    assert over("density", []) == over("density", [0]) == ""

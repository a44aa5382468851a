"""Which examples of a feature name a concept: whole words, one example a text, a few at least."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sae_lightning.studies.analysis.completeness import CompletenessStudy, names
from tests.store.planted import planted_store
from tests.studies.analysis.tiny_subject import tiny_subject


@pytest.mark.parametrize(
    ("text", "concept", "there"),
    [
        ("of ham.", "Ham", True),
        ("(HAM)", "ham", True),
        ("two hamsters", "Ham", False),
        ("shams", "ham", False),
        ("ham7", "ham", False),
        ("7ham", "ham", False),
        ("ham-ham_", "ham", True),
        ("shams, ham", "ham", True),
        ("die straße", "STRASSE", True),
        ("a+b", "a+b", True),
        ("aab", "a+b", False),
        ("Zürichs", "Zürich", False),
        ("日本", "日本", True),
    ],
)
def test_a_name_is_found_as_whole_words_alone(tmp_path: Path, text: str, concept: str, there: bool) -> None:
    store = planted_store(tmp_path, texts=[text] * 16, masked=0.0).store
    assert names(store, len(text.encode()) // 2, concept) == there


def test_words_that_the_context_cuts_off_are_no_names(tmp_path: Path) -> None:
    text = "hamsters and many more words and then ham"
    store = planted_store(tmp_path, texts=[text] * 16, masked=0.0).store
    for token in range(len(text)):
        low, high = max(0, token - 10), min(len(text), token + 11)
        assert names(store, token, "ham") == (low <= text.index(" ham") + 1 and high == len(text))
        # Cut off at the end, and at the beginning.
        assert not names(store, token, "ha")
        assert not names(store, token, "sters")


def test_one_example_a_text_counts_and_a_few_are_needed(tmp_path: Path) -> None:
    subject = tiny_subject(tmp_path)
    path = tmp_path / "concepts.txt"
    path.write_text("river\ntree\n")
    texts = ["river " * 12, *["some other words here"] * 8]

    def dense(n: int) -> NDArray:
        """Strong all over the first text, and weak in one place of each other."""
        out = np.zeros((n, subject.sae.d_sae), np.float32)
        out[: len(texts[0])] = 2.0
        out[len(texts[0]) + 2 :: len(texts[1]), 1::2] = 1.0
        return out

    store = planted_store(tmp_path, texts=texts, d_sae=subject.sae.d_sae, dense=dense, masked=0.0).store
    given = replace(subject, store=store)
    settings: dict[str, Any] = {"concepts": str(path), "shared": 1.0, "named": 0.1, "top": 48, "show_progress": False}
    result = CompletenessStudy(**settings).run(given)
    rows = [row for row in result.tables["concepts"].rows if row[0] == "river"]
    assert {row[2] % 2 for row in rows} == {0, 1}  # type: ignore[operator]
    n_odd = len(set(store.text_index[store.column(1)[0]].tolist()))
    assert n_odd >= 8
    for row in rows:
        n_texts = n_odd if row[2] % 2 else 1  # type: ignore[operator]
        assert row[7] == 1 / n_texts
    # In every template, strongest first.
    own = [row[2] for row in rows if row[4] == 2]
    assert own[0] % 2 == 0  # type: ignore[operator]
    one = CompletenessStudy(fewest=1, **settings).run(given).tables["covered"]
    assert one.rows[0][3] == own[0]
    several = CompletenessStudy(**settings).run(given).tables["covered"]
    assert several.rows[0][3] == next((f for f in own if f % 2), None)  # type: ignore[operator]
    assert "0.1 of its up to 20 strongest examples, one a text, name the concept" in several.caption

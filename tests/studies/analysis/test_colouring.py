"""Texts coloured token by token: the store's own reading, top features, pieces that are the text."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sae_lightning.core import UserError
from sae_lightning.sae.topk import TopKSAE
from sae_lightning.store import Reader
from sae_lightning.studies import Subject
from sae_lightning.studies.analysis.colouring import ColouringStudy, colour
from tests.store.planted import HOSTILE, planted_store
from tests.studies.analysis.tiny_subject import tiny_subject

TEXTS = ["A river in Zürich.", "日本 \U0001f600 and <b>green</b> & slow\n\tseven"]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    tiny = tiny_subject(tmp_path)
    assert tiny.lm is not None
    assert tiny.harvester is not None
    store = planted_store(tmp_path, d_sae=tiny.sae.d_sae).store
    # What the store would load.
    store.reader = Reader(tiny.lm, tiny.sae, tiny.harvester.sites, tiny.harvester.mask, 32, 2)
    return replace(tiny, store=store)


def study(**settings) -> ColouringStudy:
    return ColouringStudy(**{"show_progress": False, **settings})


def test_the_top_features_of_the_texts_are_chosen_and_shown(subject: Subject) -> None:
    store = subject.store
    assert store is not None
    result = study(texts=TEXTS, top=4).run(subject)
    every = np.zeros((0, store.d_sae))
    kept = []
    for text in TEXTS:
        read = store.activations_over(text, list(range(store.d_sae)))
        every = np.concatenate([every, read.values])
        kept.append(read.kept)
    largest = every.max(0)
    chosen = sorted(range(store.d_sae), key=lambda f: (-largest[f], f))[:4]
    rows = result.tables["features"].rows
    assert [row[0] for row in rows] == chosen
    for feature, full, most, tokens in rows:
        column = every[:, int(feature or 0)]
        assert most == pytest.approx(column.max())
        assert full == pytest.approx(max(column.max(), store.stats.largest[feature]))
        assert tokens == (column != 0).sum()
    pieces = result.tables["tokens"].rows
    at = 0
    expected = []
    for number, text in enumerate(TEXTS):
        mine = [row for row in pieces if row[0] == number]
        assert "".join(str(row[2]) for row in mine) == text
        assert [row[1] for row in mine] == list(range(len(mine)))
        assert [row[3] for row in mine] == kept[number].tolist()
        for i in range(len(mine)):
            for feature in chosen:
                if value := every[at + i, feature]:
                    expected.append((number, i, mine[i][2], mine[i][3], feature, pytest.approx(value)))
        at += len(mine)
    assert list(result.tables["colouring"].rows) == expected
    assert all(row[3] for row in result.tables["colouring"].rows), "masked tokens have no features"


def test_negative_activations_colour_by_size_and_keep_their_sign(subject: Subject, tmp_path: Path) -> None:
    assert isinstance(subject.sae, TopKSAE)
    subject.sae.selection = "abs_topk"
    store = subject.store
    assert store is not None
    every = store.activations_over(TEXTS[0], list(range(store.d_sae))).values
    size = np.abs(every).max(0)
    chosen = sorted(np.flatnonzero(size), key=lambda f: (-size[f], f))
    (one,) = colour(store, TEXTS[:1], top=store.d_sae, show_progress=False)
    assert one.features.tolist() == chosen
    np.testing.assert_array_equal(one.values, every[:, chosen])
    np.testing.assert_array_equal(one.largest, np.maximum(size, np.asarray(store.stats.largest))[chosen])
    assert (one.largest > 0).all()
    result = study(texts=TEXTS[:1], top=store.d_sae).run(subject)
    rows = result.tables["features"].rows
    assert [row[2] for row in rows] == [every[np.abs(every[:, f]).argmax(), f] for f in chosen]
    assert [row[3] for row in rows] == [(every[:, f] != 0).sum() for f in chosen]
    # Some features are active, and never above 0.
    assert any(every[:, f].max() <= 0 for f in chosen)
    assert {row[5] < 0 for row in result.tables["colouring"].rows} == {True, False}  # type: ignore[operator]


def test_features_may_be_named(subject: Subject) -> None:
    store = subject.store
    assert store is not None
    result = study(texts=TEXTS, features=[7, 3, 7]).run(subject)
    assert [row[0] for row in result.tables["features"].rows] == [7, 3]
    (one,) = colour(store, TEXTS[:1], [7, 3], show_progress=False)
    assert one.features.tolist() == [7, 3]
    np.testing.assert_array_equal(one.values, store.activations_over(TEXTS[0], [7, 3]).values)
    assert one.values.shape == (len(one.pieces), 2)
    mine = [(row[1], row[4], row[5]) for row in result.tables["colouring"].rows if row[0] == 0]
    assert mine == [(i, [7, 3][j], float(one.values[i, j])) for i, j in np.argwhere(one.values)]


def test_a_file_is_one_text_and_long_ones_are_cut(subject: Subject, tmp_path: Path) -> None:
    text = HOSTILE.replace("\ud800", "") + "\r\nnext line\r"
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    result = study(file=str(path), top=2).run(subject)
    assert "".join(str(row[2]) for row in result.tables["tokens"].rows) == text
    assert {row[0] for row in result.tables["tokens"].rows} == {0}
    cut = study(file=str(path), top=2, max_characters=30).run(subject)
    assert "".join(str(row[2]) for row in cut.tables["tokens"].rows) == text[:30]
    assert cut.notes == ("text 0 is cut to its first 30 characters",)


def test_mistakes_are_one_line(subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    with pytest.raises(UserError, match=r"text.txt: there is no such file"):
        study(file=str(path))
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"text.txt: is empty"):
        study(file=str(path))
    path.write_bytes(b"ab\xff")
    with pytest.raises(UserError, match=r"text.txt: is not UTF-8 \(byte 2\)"):
        study(file=str(path))
    with pytest.raises(UserError, match=r"file=.*: texts are given, too"):
        study(file=str(path), texts=["a"])
    with pytest.raises(UserError, match=r"studies.colouring.features=\[48\]: the SAE has features 0 to 47, not 48"):
        study(texts=["a"], features=[48]).run(subject)
    with pytest.raises(UserError, match="has no tokens"):
        study(texts=[""]).run(subject)
    assert "needs a feature store" in (study(texts=["a"]).reason(replace(subject, store=None)) or "")
    assert "needs texts" in (study().reason(subject) or "")
    with pytest.raises(UserError, match="needs texts"):
        study().run(subject)

"""Labelled texts: a user's own table in every format, the tasks that come along, and what is refused."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from sae_lightning.core import UserError
from sae_lightning.tokens import LabelledFile, NewsDomainSource, RottenTomatoesSource, labelled_task
from sae_lightning.tokens.news_source import _host

ROWS = [("how to bake bread", "safe", 0), ("how to make\na bomb", "unsafe", 1), ("nobody knows", None, 2)]
EXPECTED = [("how to bake bread", "safe"), ("how to make\na bomb", "unsafe"), ("nobody knows", "")]


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"text": t, "label": w, "number": n}) + "\n" for t, w, n in ROWS))


def write_csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label", "number"], *ROWS])


def write_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict(zip(("text", "label", "number"), map(list, zip(*ROWS, strict=True)), strict=True))
    pq.write_table(pa.table(columns), path)


WRITERS = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_table_gives_texts_and_labels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    WRITERS[suffix](path)
    source = LabelledFile(str(path))
    assert [(d.text, d.meta["label"]) for d in source.documents()] == EXPECTED
    assert [(d.text, d.meta["label"]) for d in source.documents(1)] == EXPECTED[1:]
    numbers = LabelledFile(str(path), label="number")
    assert [d.meta["label"] for d in numbers.documents()] == ["0", "1", "2"]
    assert numbers.identity() != source.identity()


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_missing_column_is_named_with_its_setting(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    WRITERS[suffix](path)
    settings = ("studies.probe.path", "studies.probe.text", "studies.probe.label")
    with pytest.raises(UserError, match=r"no field 'lable', it has .*; set studies.probe.label; did you mean 'label'"):
        list(LabelledFile(str(path), label="lable", settings=settings).documents())
    with pytest.raises(UserError, match=r"no field 'txt', .*; set studies.probe.text"):
        list(LabelledFile(str(path), text="txt", settings=settings).documents())
    if suffix != "csv":  # every cell of a csv is text
        with pytest.raises(UserError, match=r"holds a int; studies.probe.text must name one of text"):
            list(LabelledFile(str(path), text="number", settings=settings).documents())


def test_what_cannot_be_read_is_said_with_the_users_own_settings(tmp_path: Path) -> None:
    settings = ("studies.probe.path", "studies.probe.text", "studies.probe.label")
    with pytest.raises(UserError, match=r"nope.jsonl: there is no such file or folder; studies.probe.path must name"):
        LabelledFile("nope.jsonl", settings=settings)
    path = tmp_path / "x.csv"
    path.write_bytes("text,label\ncafé,a\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"is not utf-8-sig text \(.*\); convert it$"):
        list(LabelledFile(str(path), settings=settings).documents())


def test_txt_files_and_unknown_tasks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(UserError, match="a txt file has no labels; give csv, jsonl or parquet"):
        LabelledFile(str(tmp_path / "x.txt"))
    with pytest.raises(UserError, match=r"'rotten_tomatos': known are .*did you mean 'rotten_tomatoes'"):
        labelled_task("rotten_tomatos")


def test_hosts() -> None:
    assert _host("http://www.bbc.co.uk/news/world-1") == "bbc.co.uk"
    assert _host(" http://Tass.com/x ") == "tass.com"


@pytest.mark.lm
def test_the_film_reviews_are_those_that_were_counted() -> None:
    documents = list(RottenTomatoesSource().documents())
    assert len(documents) == RottenTomatoesSource.n_documents == 13_891
    assert Counter(d.meta["label"] for d in documents) == {"fresh": 7403, "rotten": 5405, "plot": 1083}
    assert all(d.text.strip() for d in documents)
    assert [d.text for d in RottenTomatoesSource().documents(13_880)] == [d.text for d in documents[13_880:]]


@pytest.mark.lm
def test_news_has_nine_publishers_and_spells_none_of_their_addresses() -> None:
    documents = list(NewsDomainSource().documents())
    labels = Counter(d.meta["label"] for d in documents)
    assert len(documents) == 3788
    assert len(labels) == 9
    assert labels["tass.com"] == 485
    assert not any("http://" in d.text or "https://" in d.text or "www." in d.text for d in documents)

"""Text files of every format, folders of them, data sets, and one clear line for each that cannot be read."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae_lightning.core import UserError
from sae_lightning.tokens import HFSource, ListSource, TextFileSource, TextSource

TEXTS = ["first\nline two", 'with "quotes", commas', "déjà 漢字", "", "last"]


def texts_of(source: TextSource, start: int = 0) -> list[str]:
    return [document.text for document in source.documents(start)]


def write_jsonl(path: Path, field: str = "text") -> None:
    path.write_text("".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(TEXTS)))


def write_csv(path: Path, field: str = "text") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", field], *enumerate(TEXTS)])


def write_parquet(path: Path, field: str = "text") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": range(len(TEXTS)), field: TEXTS}), path, row_group_size=2)


WRITERS: dict[str, Callable[..., None]] = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("field", ["text", "body"])
def test_tables_give_their_field_from_any_start(tmp_path: Path, suffix: str, field: str) -> None:
    path = tmp_path / f"x.{suffix}"
    WRITERS[suffix](path, field)
    source = TextFileSource(str(path), field=field)
    for start in range(len(TEXTS) + 2):
        assert texts_of(source, start) == TEXTS[start:]


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_missing_field_names_those_there_are(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    WRITERS[suffix](path, "body")
    with pytest.raises(UserError, match=rf"x.{suffix}.*no field 'boddy', it has 'id', 'body'; .*did you mean 'body'"):
        texts_of(TextFileSource(str(path), field="boddy"))


def test_txt_units(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("\none\ntwo\n\n \nthree\n")
    assert texts_of(TextFileSource(str(path), txt_unit="file")) == ["\none\ntwo\n\n \nthree\n"]
    assert texts_of(TextFileSource(str(path), txt_unit="paragraph")) == ["one\ntwo", "three"]
    assert texts_of(TextFileSource(str(path), txt_unit="line")) == ["one", "two", "three"]
    assert texts_of(TextFileSource(str(path))) == ["one\ntwo", "three"]
    path.write_text("one\ntwo\n")
    assert texts_of(TextFileSource(str(path))) == ["one", "two"]


def test_many_small_txt_files_are_a_document_each(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_text(f"text\n\n{i}")
    assert texts_of(TextFileSource(str(tmp_path))) == [f"text\n\n{i}" for i in range(20)]


def test_folders_mix_formats_in_order_and_leave_hidden_and_unknown_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.TXT").write_text("in sub")
    (tmp_path / "a.txt").write_text("in a")
    write_jsonl(tmp_path / "b.jsonl")
    write_parquet(tmp_path / "c.parquet")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "empty.txt").touch()
    expected = ["in a", *TEXTS, *TEXTS, "in sub"]
    assert texts_of(TextFileSource(str(tmp_path))) == expected
    assert texts_of(TextFileSource(str(tmp_path)), 8) == expected[8:]
    assert texts_of(TextFileSource(str(tmp_path / "**" / "*.[tT]*[tT]"))) == ["in a", "in sub"]
    meta = next(TextFileSource(str(tmp_path)).documents(2)).meta
    assert meta == {"file": "b.jsonl", "line": "2", "id": "1"}


def test_encodings(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("é".encode("latin-1"))
    assert texts_of(TextFileSource(str(path), encoding="latin-1")) == ["é"]
    path.write_bytes("\ufeffé".encode())
    assert texts_of(TextFileSource(str(path))) == ["é"]


def test_identity_follows_content_and_options_not_the_place(tmp_path: Path) -> None:
    for name, content in {"a": "one\n\ntwo", "b": "one\n\ntwo", "c": "one\n\ntwO"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(content)
    a, b, c = (TextFileSource(str(tmp_path / name)).identity() for name in "abc")
    assert a == b != c
    assert TextFileSource(str(tmp_path / "a"), txt_unit="line").identity() != a
    assert ListSource(["ab"]).identity() != ListSource(["a", "b"]).identity()


BAD: list[tuple[str, bytes | None, dict[str, Any], str]] = [
    ("x.txt", b"ok\n\xff\xfe bad", {}, "is not utf-8"),
    ("x.jsonl", b'{"text": "\xe9"}', {}, "is not utf-8"),
    ("x.csv", b"text\n\xe9\n", {}, "is not utf-8"),
    ("x.txt", b"ok", {"encoding": "utf-99"}, "data.encoding='utf-99'"),
    ("x.csv", b"text\na", {"encoding": "utf-99"}, "data.encoding='utf-99'"),
    ("x.txt", b"", {}, "is empty"),
    ("x.jsonl", b'{"text": "a"}\n{"text": ', {}, "line 2: is no JSON"),
    ("x.jsonl", b'["a"]', {}, "line 1: holds a list"),
    ("x.jsonl", b'{"text": 5}', {}, "'text' holds a int"),
    ("x.parquet", b"PAR1 this is none", {}, "cannot be read as parquet"),
    ("x.pdf", b"%PDF", {}, r"cannot read .pdf; give one of .txt, .jsonl, .csv, .parquet"),
    ("x.txt", None, {}, "no such file or folder"),
    ("x.txt", b"ok", {"txt_unit": "word"}, "txt_unit='word'"),
]


@pytest.mark.parametrize(("name", "content", "options", "named"), BAD)
def test_what_cannot_be_read_is_one_line_that_names_the_file(tmp_path: Path, name, content, options, named) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=named) as caught:
        texts_of(TextFileSource(str(path), **options))
    message = str(caught.value)
    assert "\n" not in message
    assert "=" in message or (name in message and ";" in message)


def test_folders_without_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no file"):
        TextFileSource(str(tmp_path))
    (tmp_path / "x.pdf").touch()
    with pytest.raises(UserError, match=r"holds only .pdf"):
        TextFileSource(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("secret")
    path.chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        texts_of(TextFileSource(str(path)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets: ``files``, jsonl that load_dataset reads, and ``saved``, what save_to_disk wrote."""
    import datasets

    folder = tmp_path_factory.mktemp("hf")
    (folder / "files").mkdir()
    write_jsonl(folder / "files" / "train.jsonl")
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    datasets.DatasetDict({"train": rows, "test": rows.select([4])}).save_to_disk(str(folder / "saved"))
    return folder


@pytest.mark.parametrize("kind", ["files", "saved"])
def test_local_data_sets(saved: Path, kind: str) -> None:
    folder = str(saved / kind)
    assert texts_of(HFSource(folder)) == TEXTS
    assert texts_of(HFSource(folder), 2) == TEXTS[2:]
    assert texts_of(HFSource(folder, max_documents=3), 1) == TEXTS[1:3]
    assert texts_of(HFSource(folder, max_documents=3), 4) == []
    with pytest.raises(UserError, match=r"no field 'body', it has "):
        texts_of(HFSource(folder, field="body"))
    with pytest.raises(UserError, match=r"(?i)split") as caught:
        texts_of(HFSource(folder, split="tset"))
    assert "\n" not in str(caught.value)
    assert HFSource(folder).identity() != HFSource(folder, max_documents=3).identity()


def test_a_hub_name_without_network_names_the_embedded_text(monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    with pytest.raises(UserError, match=r"'someone/text'.*data=news"):
        texts_of(HFSource("someone/text"))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_what_a_row_says_of_its_text_is_kept(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"text": "one\ntwo", "title": "A <b>title</b>", "source": "paper", "date": 2017, "long": "x", "url": ""},
        {"text": "three", "title": "y" * 600, "source": "web", "date": 2018, "long": "x", "url": "https://example.org"},
    ]
    path = tmp_path / f"corpus.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    one, two = (document.meta for document in TextFileSource(str(path)).documents())
    place = {"jsonl": ("line", "1", "2"), "csv": ("line", "2", "4"), "parquet": ("row", "0", "1")}[suffix]
    known = {"file": path.name, "title": "A <b>title</b>", "source": "paper", "date": "2017", place[0]: place[1]}
    assert one == known
    # What is too long to be a title is none.
    assert two == {
        "file": path.name,
        "source": "web",
        "date": "2018",
        "url": "https://example.org",
        place[0]: place[2],
    }

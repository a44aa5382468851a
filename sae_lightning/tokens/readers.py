"""One reader a file format: documents out of one txt, jsonl, csv or parquet file."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sae_lightning.core import UserError, nearest
from sae_lightning.tokens.corpus import Document

Unit = Literal["file", "paragraph", "line"]


#: Fields of a row that are kept beside its text, where they are there: what a reader of features wants to see of it.
_SAID = ("title", "source", "url", "link", "author", "date", "id")
_LONGEST = 500


@dataclass(frozen=True)
class ReadOptions:
    """field: key or column of the text. encoding: of all but parquet. unit: what a document of a txt file is.

    label: key or column of a label, which becomes the document's ``meta["label"]``; None: there is none.
    settings: what a message calls the settings behind ``field`` and ``label``. encoding_setting: likewise; None: there
        is no such setting.
    """

    field: str
    encoding: str
    unit: Unit
    label: str | None = None
    settings: tuple[str, str] = ("data.field", "label")
    encoding_setting: str | None = "data.encoding"

    def check(self, where: str, there: Sequence[str]) -> None:
        """Raise UserError unless the fields asked for are among ``there``."""
        for name, setting in zip((self.field, self.label), self.settings, strict=True):
            if name is not None and name not in there:
                raise missing_field(where, name, there, setting)

    def document(self, row: Mapping[str, object], where: str, place: dict[str, str]) -> Document:
        """Return the document of one row of a table."""
        text = text_of(row[self.field], self.field, where, self.settings[0])
        said = {name: str(row[name]) for name in _SAID if name != self.field and _is_said(row.get(name))}
        if self.label is not None:
            said["label"] = _label_of(row[self.label])
        return Document(text, {**place, **said})


def read_txt(path: Path, options: ReadOptions) -> Iterator[Document]:
    """Yield the whole file, its blocks between blank lines, or its lines; blank ones are no documents."""
    with decoding(path, options), open(path, encoding=options.encoding) as file:
        if options.unit == "file":
            yield Document(file.read(), {"file": path.name})
        elif options.unit == "line":
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield Document(line.rstrip("\n"), {"file": path.name, "line": str(number)})
        else:
            yield from _paragraphs(path, file)


def _paragraphs(path: Path, lines: Iterable[str]) -> Iterator[Document]:
    block: list[str] = []
    first = 0
    for number, line in enumerate(lines, start=1):
        if line.strip():
            first = first if block else number
            block.append(line)
        elif block:
            yield Document("".join(block).rstrip("\n"), {"file": path.name, "line": str(first)})
            block = []
    if block:
        yield Document("".join(block).rstrip("\n"), {"file": path.name, "line": str(first)})


def read_jsonl(path: Path, options: ReadOptions) -> Iterator[Document]:
    """Yield ``field`` of the object on each line; blank lines are skipped, null is an empty document."""
    with decoding(path, options), open(path, encoding=options.encoding) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{where}: is no JSON ({error}); every line must be one JSON object") from error
            if not isinstance(row, dict):
                raise UserError(f"{where}: holds a {type(row).__name__}; every line must be one JSON object")
            options.check(where, list(row))
            yield options.document(row, where, {"file": path.name, "line": str(number)})


def read_csv(path: Path, options: ReadOptions) -> Iterator[Document]:
    """Yield the column ``field``; the first row names the columns."""
    csv.field_size_limit(sys.maxsize)  # the default of 128 KiB is shorter than some articles
    with decoding(path, options), open(path, encoding=options.encoding, newline="") as file:
        reader = csv.DictReader(file)
        try:
            options.check(str(path), reader.fieldnames or [])
            first = reader.line_num + 1
            for row in reader:
                place = {"file": path.name, "line": str(first)}
                yield options.document(row, f"{path}, line {reader.line_num}", place)
                first = reader.line_num + 1  # a record may have several lines
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: is no CSV ({error}); correct the line") from error


def read_parquet(path: Path, options: ReadOptions) -> Iterator[Document]:
    """Yield the column ``field``, a thousand rows at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            options.check(str(path), file.schema_arrow.names)
            wanted = dict.fromkeys([options.field, *([] if options.label is None else [options.label]), *_SAID])
            columns = [name for name in wanted if name in file.schema_arrow.names]
            number = 0
            for batch in file.iter_batches(batch_size=1000, columns=columns):
                for row in batch.to_pylist():
                    yield options.document(row, f"{path}, row {number}", {"file": path.name, "row": str(number)})
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as parquet ({error}); it is damaged or another format") from error


READERS: dict[str, Callable[[Path, ReadOptions], Iterator[Document]]] = {
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def _is_said(value: object) -> bool:
    """Tell whether a field says something short of its text."""
    return isinstance(value, str | int | float) and not isinstance(value, bool) and 0 < len(str(value)) <= _LONGEST


def text_of(value: object, field: str, where: str, setting: str = "data.field") -> str:
    """Return ``value`` when it is text, "" for a missing one; UserError for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: field {field!r} holds a {type(value).__name__}; {setting} must name one of text")
    return value


def _label_of(value: object) -> str:
    """Labels may be numbers or booleans; a missing one is ""."""
    return "" if value is None else str(value).strip()


def missing_field(where: str, field: str, there: Sequence[str], setting: str = "data.field") -> UserError:
    names = ", ".join(map(repr, there)) or "none"
    return UserError(f"{where}: has no field {field!r}, it has {names}; set {setting}{nearest(field, there)}")


@contextmanager
def decoding(path: Path, options: ReadOptions) -> Iterator[None]:
    """Name the file in what opening and decoding it may raise."""
    encoding, setting = options.encoding, options.encoding_setting
    try:
        yield
    except UnicodeError as error:
        remedy = "convert it" if setting is None else f"set {setting} (latin-1, utf-16, ...) or convert it"
        raise UserError(f"{path}: is not {encoding} text ({error}); {remedy}") from error
    except LookupError as error:
        raise UserError(
            f"{setting or 'encoding'}={encoding!r}: {error}; utf-8, latin-1 and utf-16 are known"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from error

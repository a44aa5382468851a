"""The user's own text: a file, a folder or a pattern of txt, jsonl, csv and parquet files."""

import glob
import hashlib
import itertools
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from sae_lightning.core import UserError
from sae_lightning.tokens.corpus import Document, TextSource
from sae_lightning.tokens.fingerprint import files_fingerprint
from sae_lightning.tokens.readers import READERS, ReadOptions, Unit, decoding, read_txt

logger = logging.getLogger(__name__)

_MANY_FILES = 20
_SMALL_BYTES = 1 << 20
_PEEK_BYTES = 1 << 16


class TextFileSource(TextSource):
    """Documents of local files, in the order of their sorted paths; formats may mix in one folder.

    path: a file, a folder (read with everything below it, hidden files left out) or a pattern (``texts/**/*.txt``).
    field: key (jsonl) or column (csv, parquet) of the text.
    txt_unit: what a document of a txt file is: the ``file``, a ``paragraph`` (a block between blank lines) or a
        ``line``. ``auto``: the file where there are at least 20 txt files and it is under 1 MiB; else the paragraph, or
        the line where its first 64 KiB have no blank line. A book must not be one document: held-out text is chosen by
        document.
    encoding: of txt, jsonl and csv; a byte order mark is understood.
    setting: what a message calls the setting behind ``path``.

    Raises UserError naming the file: nothing there, no known suffix, empty, unreadable, wrong encoding, a line that
    does not parse, ``field`` missing (names the fields there are) or not text.
    """

    def __init__(
        self,
        path: str,
        *,
        field: str = "text",
        txt_unit: Literal["auto", "file", "paragraph", "line"] = "auto",
        encoding: str = "utf-8",
        setting: str = "data.path",
    ) -> None:
        if txt_unit not in ("auto", "file", "paragraph", "line"):
            raise UserError(f"txt_unit={txt_unit!r}: choose auto, file, paragraph or line")
        self.path = path
        self.field = field
        self.txt_unit: Literal["auto", "file", "paragraph", "line"] = txt_unit
        # utf-8-sig reads files with and without a byte order mark.
        self.encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
        self.files = _not_empty(path, _find(path, setting))
        self._n_txt = sum(READERS[file.suffix.lower()] is read_txt for file in self.files)

    def __str__(self) -> str:
        return self.path

    def documents(self, start: int = 0) -> Iterator[Document]:
        each = (READERS[file.suffix.lower()](file, self._options(file)) for file in self.files)
        return itertools.islice(itertools.chain.from_iterable(each), start, None)

    def identity(self) -> str:
        try:
            content = files_fingerprint(self.files)
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from error
        parts = (content, [file.suffix.lower() for file in self.files], self.field, self.txt_unit, self.encoding)
        return f"text-{hashlib.sha256(repr(parts).encode()).hexdigest()}"

    def _options(self, file: Path) -> ReadOptions:
        options = ReadOptions(self.field, self.encoding, "file")
        if READERS[file.suffix.lower()] is not read_txt:
            return options
        return replace(options, unit=self._auto_unit(file, options) if self.txt_unit == "auto" else self.txt_unit)

    def _auto_unit(self, file: Path, options: ReadOptions) -> Unit:
        if self._n_txt >= _MANY_FILES and file.stat().st_size < _SMALL_BYTES:
            return "file"
        with decoding(file, options), open(file, encoding=self.encoding, errors="replace") as text:
            lines = text.read(_PEEK_BYTES).strip("\n").split("\n")
        return "paragraph" if any(not line.strip() for line in lines) else "line"


def _find(path: str, setting: str) -> list[Path]:
    """Return the files that ``path`` means, sorted."""
    known = ", ".join(READERS)
    place = Path(path).expanduser()
    if place.is_file():
        if place.suffix.lower() not in READERS:
            raise UserError(f"{path}: cannot read {place.suffix or 'a file without suffix'}; give one of {known}")
        return [place]
    if place.is_dir():
        found = [file for file in place.rglob("*") if not any(p.startswith(".") for p in file.relative_to(place).parts)]
    elif place.exists():
        raise UserError(f"{path}: is neither a file nor a folder; give a file or folder of {known}")
    else:
        found = [Path(name) for name in glob.glob(str(place), recursive=True)]  # noqa: PTH207 (absolute patterns)
        if not found:
            raise UserError(f"{path}: there is no such file or folder; {setting} must name text ({known})")
    files = sorted(file for file in found if file.is_file())
    readable = [file for file in files if file.suffix.lower() in READERS]
    if not readable:
        there = sorted({file.suffix or "no suffix" for file in files})
        what = f"only {', '.join(there[:5])}" if there else "no file"
        raise UserError(f"{path}: holds {what}; give files of {known}")
    return readable


def _not_empty(path: str, files: list[Path]) -> list[Path]:
    sized = [file for file in files if file.stat().st_size > 0]
    if not sized:
        raise UserError(f"{path}: is empty; give a file with text in it")
    if len(sized) < len(files):
        logger.warning("%s: %d empty files are left out", path, len(files) - len(sized))
    return sized

"""Texts that somebody has labelled: the tasks that come along, and a user's own file.

A labelled source is a ``TextSource`` whose documents carry ``meta["label"]``; "" means that a text has none.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sae_lightning.core import UserError, nearest
from sae_lightning.tokens.corpus import TextSource
from sae_lightning.tokens.news_source import NewsDomainSource
from sae_lightning.tokens.readers import READERS, ReadOptions, read_txt
from sae_lightning.tokens.rotten_tomatoes import RottenTomatoesSource
from sae_lightning.tokens.text import TextFileSource

TASKS: dict[str, Callable[[], TextSource]] = {
    "rotten_tomatoes": RottenTomatoesSource,
    "news_source": NewsDomainSource,
}


def labelled_task(name: str) -> TextSource:
    """Return the labelled source of that name; UserError for one there isn't."""
    if name not in TASKS:
        raise UserError(f"probe task {name!r}: known are {', '.join(TASKS)}{nearest(name, TASKS)}")
    return TASKS[name]()


class LabelledFile(TextFileSource):
    """A csv, jsonl or parquet file, a folder or a pattern of them, with a column of text and one of labels.

    Labels may be text, numbers or booleans and are read as text. settings: what a message calls the settings behind
    ``path``, ``text`` and ``label``. UserErrors as ``TextFileSource``, and for txt files, which have no columns.
    """

    def __init__(
        self,
        path: str,
        *,
        text: str = "text",
        label: str = "label",
        settings: tuple[str, str, str] = ("path", "text", "label"),
    ) -> None:
        super().__init__(path, field=text, setting=settings[0])
        self.label = label
        self.settings = settings
        for file in self.files:
            if READERS[file.suffix.lower()] is read_txt:
                raise UserError(f"{file}: a txt file has no labels; give csv, jsonl or parquet with a column {label!r}")

    def identity(self) -> str:
        return f"{super().identity()}-label-{self.label}"

    def _options(self, file: Path) -> ReadOptions:
        return replace(super()._options(file), label=self.label, settings=self.settings[1:], encoding_setting=None)

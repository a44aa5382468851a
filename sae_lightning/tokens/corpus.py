"""Where text comes from: one small interface, and the simplest source, a list of strings."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Document:
    """One text and what is known about it (title, file, line, ...), all as strings."""

    text: str
    meta: dict[str, str] = field(default_factory=dict)


class TextSource(ABC):
    """Documents in a fixed order, read one after the other and never held in memory together.

    ``documents(start)`` begins with document number ``start``, so that an interrupted pass can go on where it was.
    ``identity()`` names the content cheaply: two sources with the same identity give the same documents. Token caches
    are keyed by it.
    ``n_documents`` is how many there are, or None where only a full pass would tell.
    """

    n_documents: int | None = None

    @abstractmethod
    def documents(self, start: int = 0) -> Iterator[Document]: ...

    @abstractmethod
    def identity(self) -> str: ...


def sound(text: str) -> str:
    """Return a text as UTF-8 and tokenizers can have it: lone surrogates, which JSON can spell, become U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class ListSource(TextSource):
    """Texts held in memory: for plain Python and for tests."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.n_documents = len(self.texts)

    def __str__(self) -> str:
        return f"a list of {len(self.texts)} texts"

    def documents(self, start: int = 0) -> Iterator[Document]:
        for text in self.texts[start:]:
            yield Document(text)

    def identity(self) -> str:
        digest = hashlib.sha256()
        for text in self.texts:
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        return f"list-{digest.hexdigest()}"

"""Progress of a study that goes through its data batch by batch."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from sae_lightning.core.progress import progress

T = TypeVar("T")


def track(items: Iterable[T], total: int, what: str, show: bool = True) -> Iterator[T]:
    """Yield ``items``, showing how far ``what`` is.

    show: False says nothing, for a study inside something that shows its own progress.
    """
    if not show:
        yield from items
        return
    with progress(what, total) as advance:
        for item in items:
            yield item
            advance(1)

"""An iterator that runs ahead on a thread."""

import threading
import weakref
from collections.abc import Callable, Iterator
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.05


class Ahead(Generic[T]):
    """Draws up to ``depth`` items from ``items`` before they are asked for, on a thread that ends with the process.

    ``next`` gives them in order and raises what ``items`` raised, StopIteration at its end. ``close`` stops the thread
    after the item it works on. The thread holds ``items`` and nothing of its owner, so an owner that is dropped is
    collected and closes it.
    """

    def __init__(self, items: Iterator[T], depth: int, name: str) -> None:
        self._queue: Queue[tuple[T | None, BaseException | None]] = Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=_run, args=(items, self._queue, self._closed), name=name, daemon=True)
        self._thread.start()
        # At the end of the process too, before the interpreter is taken apart under the thread.
        self._finalizer = weakref.finalize(self, _close, self._closed, self._queue, self._thread)

    def next(self, check: Callable[[], None] | None = None) -> T:
        """Return the next item. check: called a few times a second while there is none; may raise."""
        while True:
            if check is not None:
                check()
            try:
                item, error = self._queue.get(timeout=_POLL_SECONDS)
            except Empty:
                if self._closed.is_set():
                    raise RuntimeError("closed while an item was waited for") from None
                continue
            if error is not None:
                self._queue.put((None, error))  # whoever asks again gets the same answer
                raise error
            return item  # pyright: ignore[reportReturnType]

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._finalizer()


def _run(items: Iterator[T], queue: "Queue[tuple[T | None, BaseException | None]]", closed: threading.Event) -> None:
    while not closed.is_set():
        answer: tuple[T | None, BaseException | None]
        try:
            answer = (next(items), None)
        except BaseException as error:  # handed to whoever asks
            answer = (None, error)
        while not closed.is_set():
            try:
                queue.put(answer, timeout=_POLL_SECONDS)
                break
            except Full:
                continue
        if answer[1] is not None:
            break
    if close := getattr(items, "close", None):
        close()


def _close(closed: threading.Event, queue: "Queue", thread: threading.Thread) -> None:
    closed.set()
    if thread is not threading.current_thread():
        thread.join(timeout=10)

"""The next refill, harvested ahead in a thread: for a language model that has a device of its own."""

import logging
import queue
import threading
from collections.abc import Callable, Iterator

from sae_lightning.core import ActivationBatch

logger = logging.getLogger(__name__)

Part = tuple[ActivationBatch, int]
Check = Callable[[], None]
# (position in the stream, called before each micro-batch) -> rows and the position after them, without end.
Harvest = Callable[[int, Check], Iterator[Part]]
# Seconds between two looks whether the one who waits was asked to stop.
_LOOK = 0.1


class Prefetch:
    """Gives the parts that ``harvest`` gives, some of them made before they are asked for.

    ``begin`` starts a thread that harvests from a position until it has as many rows as the next refill takes; the
    language model then works while the SAE trains. ``parts`` hands those out and goes on by itself, so what comes, and
    with it every state, is the same with the thread and without. What is ahead belongs to no state: after a resume, or
    when it fails, it is harvested again. Its rows take the language model's memory, once more what a refill brings.
    """

    def __init__(self, harvest: Harvest, check: Check) -> None:
        self._harvest = harvest
        self._check = check
        self._ahead: _Ahead | None = None

    def begin(self, position: int, rows: int) -> None:
        """Harvest ``rows`` rows from ``position`` on, in a thread, in place of whatever was ahead."""
        self.end()
        if rows > 0:
            self._ahead = _Ahead(self._harvest, self._check, position, rows)

    def parts(self, position: int) -> Iterator[Part]:
        """Yield (rows, position after them) from ``position`` on, without end."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            try:
                if ahead.position == position:
                    for part in ahead.parts(self._check):
                        position = part[1]
                        yield part
            finally:
                ahead.end()
        yield from self._harvest(position, self._check)

    def end(self) -> None:
        """Stop harvesting ahead and forget what is there."""
        if self._ahead is not None:
            self._ahead.end()
            self._ahead = None


class _Ahead:
    """One thread's harvest."""

    def __init__(self, harvest: Harvest, check: Check, position: int, rows: int) -> None:
        self.position = position
        self._harvest, self._check = harvest, check
        self._rows = rows
        self._ended = threading.Event()
        self._parts: queue.SimpleQueue[Part | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def parts(self, check: Check) -> Iterator[Part]:
        """Yield what the thread has harvested and harvests, until it ends; ``check`` is called while waiting."""
        while True:
            check()
            try:
                part = self._parts.get(timeout=_LOOK)
            except queue.Empty:
                continue
            if part is None:
                return
            yield part

    def end(self) -> None:
        """Let the thread end after its micro-batch, and wait for it."""
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        found = 0
        try:
            for rows, position in self._harvest(self.position, self._go_on):
                self._parts.put((rows, position))
                found += len(rows)
                if found >= self._rows:
                    break
        except _Ended:
            pass
        except Exception as error:  # a request to stop, or a failure, which shows again when it is really wanted
            logger.debug("harvesting ahead ended: %s", error)
        finally:
            self._parts.put(None)

    def _go_on(self) -> None:
        if self._ended.is_set():
            raise _Ended
        self._check()


class _Ended(Exception):  # noqa: N818 - a request, not an error
    pass

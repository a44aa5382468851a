"""Where trials are kept: Optuna's storage, opened by the sweep and by every run that reports to it.

Imports optuna; import it inside functions.
"""

import fcntl
import os
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from sae_lightning.core import UserError

# Seconds that a writer waits for the others of an SQLite file.
_SQLITE_TIMEOUT = 60


class KernelLock(JournalFileOpenLock):
    """A lock that dies with its holder: Optuna's own ones make everybody wait 30 s after a SIGKILL."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path
        self._held: list[int] = []

    def acquire(self) -> bool:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX)
        self._held.append(fd)
        return True

    def release(self) -> None:
        os.close(self._held.pop())


class Journal(JournalFileBackend):
    """Optuna's journal file, one JSON object a line, which survives a writer that dies within a line.

    Optuna would append to the torn line, and nothing could read the file any more; here the torn line goes first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = KernelLock(path.with_name(f".{path.name}.lock"))
        super().__init__(str(path), lock_obj=self.lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lock.acquire()
        try:
            drop_torn_line(self.path)
        finally:
            self.lock.release()
        super().append_logs(logs)


def drop_torn_line(path: Path) -> None:
    """Cut a file after its last newline."""
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 4096)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)


def open_storage(path: str | Path) -> BaseStorage:
    """Open a journal (``*.journal``) or an SQLite file (``*.db``); raise UserError when it is neither."""
    path = Path(path)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if path.suffix == ".journal":
            return JournalStorage(Journal(path))
        return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": _SQLITE_TIMEOUT}})
    except OSError:
        raise
    except Exception as error:
        raise UserError(
            f"{path}: is no study that Optuna can read ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "restore it, or start anew under another name"
        ) from None

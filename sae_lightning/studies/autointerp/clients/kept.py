"""Answers kept on disk as they come: what was answered once is never asked again, whatever ends the run."""

import contextlib
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

from sae_lightning.core import UserError
from sae_lightning.core.files import fsync_folder
from sae_lightning.core.locks import file_lock
from sae_lightning.studies.autointerp.clients.client import SAID, Answer, Answering, Request, Usage

logger = logging.getLogger(__name__)

FILE = "answers.jsonl"
_CHECK = "check"
_START = b'{"key": "'


@contextmanager
def keeping(client: Answering, folder: str | Path) -> Iterator["KeptClient"]:
    """Yield ``client`` with its answers kept in ``folder``/answers.jsonl, which is made where it is not there.

    Raises UserError: another process works in this folder; the file is none of answers.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    def taken() -> None:
        raise UserError(
            f"{folder}: another process is asking for this folder; wait until it has ended, or choose another folder"
        )

    with file_lock(folder / f".{FILE}.lock", taken), FileIO(str(folder / FILE), "a") as file:
        fsync_folder(folder)
        yield KeptClient(client, file)


class KeptClient:
    """Any client, with a memory: one line of JSON an answer, each flushed to the disk before the next is asked for.

    An answer is found by a hash of who answers (``identity``) and of the request. Kept are texts, and problems that
    are the model's own word (``SAID``); faults of the way are not, and asked again by the next run. Equal requests in
    one round are asked once. A line cut short by the end of a process is cut off; one that does not have the checksum
    it was written with is left out and asked again (``damaged`` counts them). Calls may come from several threads.
    """

    def __init__(self, client: Answering, file: FileIO) -> None:
        self._client, self._file = client, file
        self._lock = threading.Lock()
        self._who = json.dumps(dict(client.identity), sort_keys=True)
        self._kept = 0
        self._repeated: list[Answer] = []
        self.damaged = 0
        self._answers = self._read()
        if self.damaged:
            logger.warning("%s: %d damaged lines are left out and asked again", FILE, self.damaged)

    @property
    def name(self) -> str:
        """Who answers."""
        return self._client.name

    @property
    def usage(self) -> Usage:
        """What was asked of the client, and what was not because its answer was there."""
        usage = self._client.usage
        problems = usage.problems.copy()
        problems.update(answer.problem for answer in self._repeated if answer.problem is not None)
        more = len(self._repeated)
        answered = sum(answer.problem is None for answer in self._repeated)
        return replace(
            usage,
            requests=usage.requests + more,
            answered=usage.answered + answered,
            kept=usage.kept + more,
            problems=problems,
        )

    def ask(self, requests: Sequence[Request], what: str = "asking") -> list[Answer]:
        """Return the answers in the order of the requests, those kept with ``kept=True``; see ``Client.ask``."""
        with self._lock:
            keys = [self._key(request) for request in requests]
            news: dict[str, Request] = {}
            for key, request in zip(keys, requests, strict=True):
                if key not in self._answers:
                    news.setdefault(key, request)
            came: dict[str, Answer] = {}
            names = list(news)
            for place, answer in self._client.answers(list(news.values()), what):
                self._keep(names[place], answer)
                came[names[place]] = answer
            known = {key: came.get(key) or self._answers[key] for key in set(keys)}
            answers = []
            for key in keys:
                answer = came.pop(key, None)
                if answer is None:
                    answer = replace(known[key], kept=True)
                    self._repeated.append(answer)
                answers.append(answer)
            return answers

    def _key(self, request: Request) -> str:
        said = json.dumps(request.as_json(), sort_keys=True)
        return hashlib.sha256(f"{self._who}\n{said}".encode()).hexdigest()

    def _keep(self, key: str, answer: Answer) -> None:
        """Append one answer and flush it to the disk; after a fault of the disk the file is as it was before."""
        if answer.problem is not None and answer.problem not in SAID:
            return
        end = self._file.seek(0, os.SEEK_END)
        try:
            left = memoryview(_line(key, answer))
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), end)
            error.filename = error.filename or self._file.name
            raise
        self._answers[key] = answer

    def _read(self) -> dict[str, Answer]:
        """Return the answers of the file, and leave it ending with a whole line."""
        answers: dict[str, Answer] = {}
        whole, torn = 0, b""
        with open(self._file.name, "rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    torn = line  # the process ended while it wrote
                    break
                whole += len(line)
                if (read := _read_line(line)) is not None:
                    answers[read[0]] = read[1]
                else:
                    self.damaged += 1
        ours = not torn or torn[: len(_START)] == _START[: len(torn)]
        if not answers and (self.damaged or not ours):
            raise UserError(f"{self._file.name}: holds no answers; choose another folder, or remove this file")
        self._file.truncate(whole)
        return answers


def _line(key: str, answer: Answer) -> bytes:
    value: dict[str, Any] = {
        "key": key,
        "text": answer.text,
        "problem": answer.problem,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "probabilities": None if answer.probabilities is None else dict(answer.probabilities),
    }
    return json.dumps(value | {_CHECK: _checksum(value)}, allow_nan=False).encode() + b"\n"


def _checksum(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _read_line(line: bytes) -> tuple[str, Answer] | None:
    """Return (key, answer) of a line, None where it is not as ``_line`` wrote it."""
    try:
        value = json.loads(line)
        check = value.pop(_CHECK)
        if check != _checksum(value):
            return None
        key = value.pop("key")
        return key, Answer(**value)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None

"""Answers that were given once are there again, whatever happened to the process and to the file."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sae_lightning.core import UserError
from sae_lightning.studies.autointerp.clients.client import Answer, Request, Usage
from sae_lightning.studies.autointerp.clients.kept import FILE, keeping
from tests.conftest import ROOT
from tests.studies.autointerp.chat_server import ChatServer, every, key_of
from tests.studies.autointerp.clients.asking_runs import questions

KEY = "sk-test-4f9a8d77c1e2b3a4"


class Counting:
    """A client that answers from a table and remembers what it was asked."""

    def __init__(self, problems: Mapping[str, str | None] | None = None, model: str = "a") -> None:
        self.asked: list[str] = []
        self.problems = problems or {}
        self.model = model
        self.stop_after: int | None = None

    name = "counting"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"client": "counting", "model": self.model}

    @property
    def usage(self) -> Usage:
        return Usage(requests=len(self.asked), answered=len(self.asked))

    def ask(self, requests: Sequence[Request], what: str = "asking") -> list[Answer]:
        raise AssertionError("answers are taken as they come")

    def answers(self, requests: Sequence[Request], what: str = "asking") -> Iterator[tuple[int, Answer]]:
        for place in reversed(range(len(requests))):
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise UserError("the budget is spent")
            content = requests[place].messages[-1][1]
            self.asked.append(content)
            problem = self.problems.get(content)
            yield (
                place,
                Answer(
                    None if problem else f"{self.model} says {content} é\n", problem, 3, 2, {"yes": 0.25, "no": 0.75}
                ),
            )


def test_an_answer_is_there_again(tmp_path: Path):
    with keeping(Counting(), tmp_path) as client:
        first = client.ask(questions(5))
    with keeping(inner := Counting(), tmp_path) as client:
        again = client.ask(questions(7))
        assert inner.asked == ["question 6", "question 5"]
        assert client.usage.kept == 5
        assert client.usage.requests == client.usage.answered == 7
    assert [answer.text for answer in again[:5]] == [answer.text for answer in first]
    assert again[0] == Answer("a says question 0 é\n", None, 3, 2, {"yes": 0.25, "no": 0.75}, kept=True)
    assert [answer.kept for answer in again] == [True] * 5 + [False] * 2


def test_equal_requests_are_asked_once_and_different_ones_each(tmp_path: Path):
    one = questions(1)[0]
    messages, limit = one.messages, one.max_tokens
    others = [
        Request(messages, limit + 1), Request(messages, limit, ("yes",)), Request(messages, limit, temperature=0.5),
        Request(messages, limit, seed=1), Request((("system", "x"), *messages), limit),
        Request((("assistant", "question 0"),), limit),
    ]  # fmt: skip
    with keeping(inner := Counting(), tmp_path) as client:
        answers = client.ask([one, *others, one])
        assert len(inner.asked) == 7
        assert answers[0].text == answers[-1].text
        assert client.usage.kept == 1
    with keeping(inner := Counting(model="b"), tmp_path) as client:
        assert client.ask([one])[0].text == "b says question 0 é\n"
    with keeping(inner := Counting(), tmp_path) as client:
        assert client.ask([one])[0].text == "a says question 0 é\n"
        assert not inner.asked


def test_faults_of_the_way_are_asked_again_and_the_models_word_is_not(tmp_path: Path):
    problems = {"question 0": "timeout", "question 1": "refused", "question 2": "malformed", "question 3": "no choice"}
    with keeping(Counting(problems), tmp_path) as client:
        assert [answer.problem for answer in client.ask(questions(5))] == [*problems.values(), None]
    with keeping(inner := Counting(), tmp_path) as client:
        again = client.ask(questions(5))
        assert inner.asked == ["question 2", "question 0"]
        assert client.usage.problems == {"refused": 1, "no choice": 1}
    assert [answer.problem for answer in again] == [None, "refused", None, "no choice", None]


def test_what_was_answered_before_an_error_is_kept(tmp_path: Path):
    inner = Counting()
    inner.stop_after = 3
    with pytest.raises(UserError, match="the budget is spent"), keeping(inner, tmp_path) as client:
        client.ask(questions(5))
    with keeping(inner := Counting(), tmp_path) as client:
        client.ask(questions(5))
        assert inner.asked == ["question 1", "question 0"]


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_torn_line_is_cut_off(tmp_path: Path, cut: int):
    with keeping(Counting(), tmp_path) as client:
        client.ask(questions(3))
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    for n_asked in (1, 0):
        with keeping(inner := Counting(), tmp_path) as client:
            assert len(client.ask(questions(3))) == 3
            assert len(inner.asked) == n_asked
            assert client.damaged == 0
    assert path.read_bytes() == b"".join(lines)


def test_every_cut_of_the_file_loses_only_what_was_cut(tmp_path: Path):
    with keeping(Counting(), tmp_path) as client:
        client.ask(questions(2))
    path = tmp_path / FILE
    data = path.read_bytes()
    for end in range(0, len(data) + 1, 7):
        path.write_bytes(data[:end])
        with keeping(inner := Counting(), tmp_path) as client:
            client.ask(questions(2))
        assert len(inner.asked) == 2 - data[:end].count(b"\n")


def test_damaged_lines_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with keeping(Counting(), tmp_path) as client:
        client.ask(questions(4))
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"question", b"quostion")  # good JSON, other text
    lines[2] = b"\x00\xff garbage\n"
    path.write_bytes(b"".join([*lines, b"[" * 5000 + b"\n"]))
    with keeping(inner := Counting(), tmp_path) as client:
        answers = client.ask(questions(4))
        assert client.damaged == 3
        assert len(inner.asked) == 2
    assert [answer.text for answer in answers] == [f"a says question {i} é\n" for i in range(4)]
    assert "3 damaged lines" in caplog.text


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\x00", b"notes of mine", b"notes of mine\n", b"{}\n"])
def test_a_file_of_something_else_is_not_touched(tmp_path: Path, content: bytes):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UserError, match="holds no answers"), keeping(Counting(), tmp_path):
        pass
    assert (tmp_path / FILE).read_bytes() == content


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with keeping(Counting(), tmp_path) as client:
        client.ask(questions(1))
        before = (tmp_path / FILE).read_bytes()

        def full(fd: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as error:
            client.ask(questions(3))
        assert error.value.filename == str(tmp_path / FILE)
        assert (tmp_path / FILE).read_bytes() == before


def test_two_processes_do_not_share_a_folder(tmp_path: Path):
    taken = pytest.raises(UserError, match="another process is asking")
    with keeping(Counting(), tmp_path), taken, keeping(Counting(), tmp_path):
        pass
    with keeping(Counting(), tmp_path) as client:
        client.ask(questions(1))


def test_threads_ask_once(tmp_path: Path):
    with keeping(inner := Counting(), tmp_path) as client:
        threads = [threading.Thread(target=client.ask, args=(questions(20),)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(inner.asked) == sorted(f"question {i}" for i in range(20))
        assert client.usage.requests == 160
    assert len((tmp_path / FILE).read_text().splitlines()) == 20


def test_killed_at_any_moment_nothing_is_lost_and_nothing_asked_twice(tmp_path: Path):
    n, started = 120, 0
    env = os.environ | {"TEST_KEY": KEY, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.studies.autointerp.clients.asking_runs"]
    with ChatServer(seconds=0.02, script=every(9, ["500", "cut", "garbage", "429"]), key=KEY) as server:
        while True:
            started += 1
            before = sum(server.answered.values())
            process = subprocess.Popen(
                [*command, server.base_url, str(tmp_path / "run"), str(n)], cwd=ROOT, env=env,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            while process.poll() is None and (started > 3 or sum(server.answered.values()) < before + 15 * started):
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            out = process.communicate()[0].decode()
            assert KEY not in out
            if process.returncode != -signal.SIGKILL:
                assert process.returncode == 0, out
                break
        assert started == 4
        kept = (tmp_path / "run" / FILE).read_bytes()
        assert len(kept.splitlines()) == n
        assert KEY.encode() not in kept
        names = {
            key_of({"messages": [{"role": "user", "content": f"question {i}"}], "temperature": 0.0, "seed": 0})
            for i in range(n)
        }
        assert set(server.answered) == names
        # Only what was on its way when the process was killed can have been answered to nobody.
        assert sum(server.answered.values()) - n <= 4 * (started - 1)
        assert max(server.answered.values()) <= started
    assert [json.loads(line)["problem"] for line in kept.splitlines()] == [None] * n

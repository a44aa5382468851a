"""A study's file survives what kills its writers, and a sweep's folder belongs to one sweep and one controller."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from sae_lightning.core import UserError
from sae_lightning.launch.storage import only_controller, open_study
from sae_lightning.training.trial_storage import KernelLock, drop_torn_line, open_storage

SPACE = {"x": '{"name": "FloatDistribution", "attributes": {"low": 0, "high": 1, "step": null, "log": false}}'}
PRUNER = {"name": "none", "startup": 5, "warmup": 0}


def study(folder: Path, **changes: Any) -> optuna.Study:
    wanted: dict[str, Any] = {
        "kind": "journal",
        "name": "s",
        "space": SPACE,
        "fixed": ["seed=0"],
        "objectives": {"fvu": "minimise"},
        "pruner": PRUNER,
    }
    return open_study(folder, **(wanted | changes))


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_study_is_there_when_it_is_opened_again(tmp_path: Path, kind: str) -> None:
    first = study(tmp_path, kind=kind)
    first.tell(first.ask(), 0.5)
    assert [t.value for t in study(tmp_path, kind=kind).trials] == [0.5]


@pytest.mark.parametrize("torn", [b'{"op_code":4,"wor', b"{", b"\x00\x00"])
def test_a_line_that_was_never_finished_costs_that_line_alone(tmp_path: Path, torn: bytes) -> None:
    first = study(tmp_path)
    first.tell(first.ask(), 0.5)
    with open(tmp_path / "study.journal", "ab") as file:
        file.write(torn)
    again = study(tmp_path)
    again.tell(again.ask(), 0.25)
    assert [t.value for t in study(tmp_path).trials] == [0.5, 0.25]


@pytest.mark.parametrize("text", [b"", b"a", b"a\n", b"a\nb", b"a\n" + b"b" * 10_000, b"b" * 10_000])
def test_drop_torn_line_keeps_the_finished_lines(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "f").write_bytes(text)
    drop_torn_line(tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"".join(line for line in text.splitlines(True) if line.endswith(b"\n"))


def _hold(path: Path) -> None:
    KernelLock(path).acquire()
    path.with_suffix(".held").touch()
    time.sleep(60)


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = multiprocessing.get_context("spawn").Process(target=_hold, args=(path,))
    holder.start()
    while not path.with_suffix(".held").exists():
        time.sleep(0.01)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    started = time.monotonic()
    lock = KernelLock(path)
    lock.acquire()
    lock.release()
    assert time.monotonic() - started < 1  # Optuna's own lock waits for 30 s


def test_a_sweep_has_one_controller(tmp_path: Path) -> None:
    with only_controller(tmp_path / "a"):
        with pytest.raises(UserError, match="another process runs this sweep"), only_controller(tmp_path / "a"):
            pass
        with only_controller(tmp_path / "b"):
            pass
    with only_controller(tmp_path / "a"):
        pass


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": SPACE | {"y": "{}"}}, "another search space (y)"),
        ({"space": {}}, "another search space (x)"),
        ({"fixed": ["seed=0", "tokens=5"]}, "other settings (tokens=5)"),
        ({"objectives": {"l0": "minimise"}}, 'the objectives {"fvu": "minimise"}'),
        ({"objectives": {"fvu": "maximise"}}, "the objectives"),
        ({"objectives": {"fvu": "minimise", "l0": "minimise"}}, "the objectives"),
        ({"kind": "sqlite"}, "use journal"),
        ({"name": "t"}, "keeps study 's'"),
    ],
)
@pytest.mark.parametrize("trials", [0, 1])
def test_another_sweep_does_not_get_into_a_study(
    tmp_path: Path, changes: dict[str, Any], words: str, trials: int
) -> None:
    first = study(tmp_path)
    for _ in range(trials):
        first.tell(first.ask(), 0.5)
    with pytest.raises(UserError) as caught:
        study(tmp_path, **changes)
    assert words in str(caught.value)
    assert "hydra.sweeper.study=" in str(caught.value)


def test_trials_without_their_study_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "trial-000").mkdir()
    with pytest.raises(UserError, match="is gone; restore it"):
        study(tmp_path)


@pytest.mark.parametrize("name", ["study.journal", "study.db"])
def test_a_file_that_is_no_study_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is no study\nat all\n")
    with pytest.raises(UserError, match="no study that Optuna can read"):
        open_storage(tmp_path / name)

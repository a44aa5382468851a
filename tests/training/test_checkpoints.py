"""Checkpoints: which stay, which is best, and which is trusted after a crash."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.sae import BatchTopKSAE
from sae_lightning.training import AtomicCheckpointIO, last_good
from sae_lightning.training.callbacks import Checkpoints, DeadFeatures, DecoderNorm, Evaluation
from sae_lightning.training.checkpoints import checksum_path, damage, part_path
from tests.conftest import planted
from tests.training.plain import PlainRun, prepare

ROWS = planted(600, d=16, n_true=32, p=0.06)[0]


def build(folder: Path, steps: int, fvu: list[float] | None = None, **options: Any) -> PlainRun:
    """Return a run whose held-out fvu is scripted, one value a step."""
    scripted = iter(fvu or [])
    callbacks: list[Any] = [DecoderNorm(), DeadFeatures(), keep := Checkpoints(run_dir=str(folder), **options)]
    if fvu:
        # After Checkpoints in the list: Lightning itself must put checkpoints last.
        callbacks.append(Evaluation(lambda lane: {"fvu": next(scripted)}, every_n_steps=1))
    run = prepare(BatchTopKSAE(16, 24, k=3), ROWS, folder, steps=steps, lr=1e-2, batch_size=64, callbacks=callbacks)
    assert run.trainer.callbacks[-1] is keep  # type: ignore[attr-defined]
    return run


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "checkpoints").iterdir())


def steps(folder: Path) -> list[int]:
    return sorted(int(p.stem.removeprefix("step-")) for p in (folder / "checkpoints").glob("step-*.ckpt"))


def step_of(path: Path) -> int:
    assert damage(path) is None
    return torch.load(path, weights_only=True)["global_step"]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"every_n_steps": 2}, [8, 9]),  # two by default, the last step always
        ({"every_n_steps": 2, "keep": 1}, [9]),
        ({"every_n_steps": 2, "keep": 9}, [2, 4, 6, 8, 9]),
        ({"every_n_steps": 2, "keep": 1, "every_n_steps_kept": 4}, [4, 8, 9]),
        ({"every_n_steps": 500}, [9]),
    ],
)
def test_which_stay(tmp_path: Path, options: dict[str, int], left: list[int]) -> None:
    build(tmp_path, 9, **options).fit()
    assert steps(tmp_path) == left
    expected = [f"step-{s:09d}.ckpt{end}" for s in left for end in ("", ".sha256")]
    assert names(tmp_path) == sorted(expected)  # surplus ones go with their checksums, nothing else is left
    assert step_of(last_good(tmp_path)) == 9


def test_best_is_the_lowest_held_out_fvu_even_when_its_own_file_is_gone(tmp_path: Path) -> None:
    fvu = [0.9, 0.5, 0.7, 0.4, 0.6, 0.8, 0.45, 0.9]
    run = build(tmp_path, 8, fvu, every_n_steps=3, keep=1).fit()
    best = tmp_path / "checkpoints/best.ckpt"
    assert step_of(best) == 4
    assert steps(tmp_path) == [8]
    assert step_of(last_good(tmp_path)) == 8
    saved = torch.load(best, weights_only=True)
    assert saved["callbacks"]["Checkpoints"] == {"best_fvu": 0.4}
    assert not torch.equal(saved["state_dict"]["lanes.sae.sae.W_enc"], run.lane.sae.W_enc)


def test_no_best_when_not_asked_for_or_never_measured(tmp_path: Path) -> None:
    build(tmp_path, 3, [0.3, 0.2, 0.1], best=False).fit()
    assert not (tmp_path / "checkpoints/best.ckpt").exists()
    build(tmp_path, 4).fit()
    assert not (tmp_path / "checkpoints/best.ckpt").exists()


def test_an_fvu_that_is_no_number_is_never_best(tmp_path: Path) -> None:
    build(tmp_path, 3, [0.5, math.nan, 0.6], every_n_steps=1).fit()
    assert step_of(tmp_path / "checkpoints/best.ckpt") == 1


def test_a_resumed_run_remembers_what_was_best(tmp_path: Path) -> None:
    build(tmp_path, 8, [0.9, 0.2, 0.5, 0.4, *[0.6] * 4], every_n_steps=4, keep=9).fit()
    for late in (tmp_path / "checkpoints").glob("step-000000008*"):
        late.unlink()
    start = last_good(tmp_path)
    assert step_of(start) == 4
    build(tmp_path, 8, [0.3, 0.25, 0.21, 0.2], every_n_steps=4, keep=9).fit(start)
    assert step_of(tmp_path / "checkpoints/best.ckpt") == 2
    build(tmp_path, 8, [0.3, 0.1, 0.21, 0.2], every_n_steps=4, keep=9).fit(start)
    assert step_of(tmp_path / "checkpoints/best.ckpt") == 6


def test_a_resumed_run_ends_where_the_unbroken_one_does(tmp_path: Path) -> None:
    whole = build(tmp_path, 8, every_n_steps=3, keep=9).fit().lane.state_dict()
    resumed = build(tmp_path, 8, every_n_steps=100).fit(tmp_path / "checkpoints/step-000000003.ckpt").lane.state_dict()
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


# Torn, missing, damaged


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Return a run folder with checkpoints of steps 1, 2 and 3."""
    io = AtomicCheckpointIO()
    for step in (1, 2, 3):
        path = tmp_path / f"checkpoints/step-{step:09d}.ckpt"
        io.save_checkpoint({"step": step, "weights": torch.full((500,), float(step))}, path)
    return tmp_path


def ckpt(run_dir: Path, step: int) -> Path:
    return run_dir / f"checkpoints/step-{step:09d}.ckpt"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def forget(path: Path) -> None:
    checksum_path(path).unlink()


@pytest.mark.parametrize(
    ("harm", "says"),
    [(cut, "torn or corrupt"), (flip, "torn or corrupt"), (forget, "not finished"), (Path.unlink, "missing")],
    ids=["cut", "flipped bit", "no checksum", "gone"],
)
def test_the_last_good_one_is_used_and_each_bad_one_named(three: Path, harm, says: str, caplog) -> None:
    assert last_good(three) == ckpt(three, 3)
    assert not caplog.records
    harm(ckpt(three, 3))
    harm(ckpt(three, 2))
    assert last_good(three) == ckpt(three, 1)
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(lines) == 2
    for step in (2, 3):
        assert any(ckpt(three, step).name in line and says in line for line in lines), lines
    with pytest.raises(UserError, match=says):
        AtomicCheckpointIO().load_checkpoint(ckpt(three, 3))


def test_none_left_is_a_users_error_that_counts_them(three: Path) -> None:
    for step in (1, 2, 3):
        flip(ckpt(three, step))
    with pytest.raises(UserError, match=r"no whole checkpoint .*3 damaged.*start the run anew"):
        last_good(three)
    with pytest.raises(UserError, match="no whole checkpoint"):
        last_good(three / "nowhere")


def test_a_write_cut_short_leaves_the_old_ones_and_its_remains_are_swept(three: Path) -> None:
    remains = three / "checkpoints/.step-000000004.ckpt.123.tmp"
    remains.write_bytes(b"half")
    assert last_good(three) == ckpt(three, 3)
    assert not remains.exists()


def test_saved_again_it_is_whole_and_loads_what_was_saved(three: Path) -> None:
    io = AtomicCheckpointIO()
    path = ckpt(three, 3)
    io.save_checkpoint({"step": 33, "nested": {"x": [1, 2.5, "a", None]}}, path)
    assert damage(path) is None
    assert io.load_checkpoint(path) == {"step": 33, "nested": {"x": [1, 2.5, "a", None]}}
    io.remove_checkpoint(path)
    assert names(three) == [f"step-00000000{s}.ckpt{e}" for s in (1, 2) for e in ("", ".sha256")]


def test_a_failed_write_is_never_mistaken_for_a_whole_one(three: Path, monkeypatch) -> None:
    path = ckpt(three, 3)

    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="no"):
        AtomicCheckpointIO().save_checkpoint({"step": 9}, path)
    assert last_good(three) == ckpt(three, 2)


def test_a_full_disk_is_one_line_with_the_remedy(three: Path, monkeypatch) -> None:
    def full(*_: Any) -> None:
        # As torch's zip writer reports it: the cause is further down.
        raise RuntimeError("unexpected pos") from OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"the disk is full .*resume=" + str(three)):
        AtomicCheckpointIO().save_checkpoint({"step": 4}, ckpt(three, 4))
    assert last_good(three) == ckpt(three, 3)


def test_nothing_in_a_checkpoint_can_run_code(three: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    AtomicCheckpointIO().save_checkpoint({"x": Attack()}, ckpt(three, 4))
    with pytest.raises(Exception, match=r"[Ww]eights"):
        AtomicCheckpointIO().load_checkpoint(ckpt(three, 4))
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_lost_a_rank_s_part_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step in (1, 2):
        path = folder / f"step-{step:09d}.ckpt"
        for rank in (1, 0):
            AtomicCheckpointIO().save_checkpoint({"global_step": step}, part_path(path, rank))
    assert last_good(tmp_path).name == "step-000000002.ckpt"
    for file in (part := part_path(folder / "step-000000002.ckpt", 1), checksum_path(part)):
        file.unlink()
    assert last_good(tmp_path).name == "step-000000001.ckpt"

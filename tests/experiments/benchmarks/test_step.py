"""A small run of ours, measured as the large ones are."""

import argparse
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.benchmarks.shape import step_parser
from experiments.benchmarks.step import block_bytes, measure

from .test_shape import KEYS, SMALL


def parsed(*arguments: str) -> argparse.Namespace:
    return step_parser(None, steps=20, warmup=5).parse_args(arguments)


@pytest.mark.parametrize("model", ["topk", "standard", "jumprelu"])
def test_a_small_run_through_the_trainer(model: str, tmp_path: Path) -> None:
    line = measure(parsed(*SMALL, "--model", model), ["callbacks.checkpoints.every_n_steps=3"], tmp_path)
    assert line.keys() >= KEYS
    assert line["l0"] == pytest.approx(4, abs=0.5)
    assert line["parameters"] >= 128 * 33 + 16
    assert line["settings"] == ["callbacks.checkpoints.every_n_steps=3"]
    # Logging was on, and the run was stopped after its steps: saved at 3 and at 6 of what would have been 10,000.
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    assert {path.name for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt")} == {
        "step-000000003.ckpt",
        "step-000000006.ckpt",
    }


def test_the_block_is_the_whole_batch_or_what_the_run_allows() -> None:
    config = SimpleNamespace(data=SimpleNamespace(batch_size=1024), trainer=SimpleNamespace(pre_acts_mb=None))
    assert block_bytes(config, 1024) == 4 * 2**20  # pyright: ignore[reportArgumentType] - all that it reads of a config
    config.trainer.pre_acts_mb = 1
    assert block_bytes(config, 1024) == 2**20  # pyright: ignore[reportArgumentType] - as above

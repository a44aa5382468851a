"""The Evaluation callback: when it measures, in which mode, and that training does not notice."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lightning.sae import BatchTopKSAE, fold
from sae_lightning.studies import Subject
from sae_lightning.studies.evaluation import heldout_metrics
from sae_lightning.training import Lane
from sae_lightning.training.callbacks import DeadFeatures, DecoderNorm, Evaluation, GradientProjection
from tests.conftest import planted
from tests.training.plain import PlainRun, prepare

ROWS = planted(600, d=16, n_true=32, p=0.06)[0]
HELDOUT = torch.from_numpy(planted(300, d=16, n_true=32, p=0.06, seed=1)[0])


def run(folder: Path, *evaluation: Evaluation, steps: int = 12) -> PlainRun:
    callbacks: list[Any] = [GradientProjection(), DecoderNorm(), DeadFeatures(after_tokens=100), *evaluation]
    sae = BatchTopKSAE(16, 24, k=3)
    return prepare(sae, ROWS, folder, steps=steps, lr=1e-2, batch_size=64, callbacks=callbacks).fit()


def measure(lane: Lane) -> dict[str, float]:
    figures = heldout_metrics(Subject(sae=fold(lane.sae, lane.normaliser), rows=HELDOUT), show_progress=False)
    torch.rand(3)  # even an evaluator that draws from the global generator changes nothing
    return {name: figure.value for name, figure in figures.items() if figure.value is not None}


def test_training_is_the_same_bits_with_it_on_or_off(tmp_path: Path) -> None:
    off = run(tmp_path)
    on = run(tmp_path, callback := Evaluation(measure, every_n_steps=2))
    assert callback.evaluated_at == 12
    assert 0 < callback.fvu["sae"] < 1
    expected = off.lane.state_dict()
    for key, value in on.lane.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert on.datamodule.state_dict() == off.datamodule.state_dict()


@pytest.mark.parametrize(
    ("every", "steps", "when"), [(5, 12, [5, 10, 12]), (4, 12, [4, 8, 12]), (50, 12, [12]), (0, 12, [])]
)
def test_it_measures_every_n_steps_and_at_the_end(tmp_path: Path, every: int, steps: int, when: list[int]) -> None:
    seen: list[int] = []
    modes: list[tuple[bool, bool]] = []

    def evaluate(lane: Lane) -> dict[str, float]:
        seen.append(int(lane.steps_done))
        modes.append((lane.training, lane.sae.training))
        return {"fvu": 0.5}

    done = run(tmp_path, Evaluation(evaluate, every), steps=steps)
    assert seen == when
    assert set(modes) <= {(False, False)}
    assert done.lane.sae.training


def test_a_failed_evaluation_leaves_the_lane_in_training_mode(tmp_path: Path) -> None:
    def evaluate(lane: Lane) -> dict[str, float]:
        raise RuntimeError("no rows")

    lanes: list[Lane] = []

    class Keep(DeadFeatures):
        def on_fit_start(self, trainer, pl_module) -> None:
            lanes.append(pl_module.each_lane()[0][1])

    with pytest.raises(RuntimeError, match="no rows"):
        prepare(
            BatchTopKSAE(16, 24, k=3), ROWS, tmp_path, steps=2, lr=1e-3, batch_size=64,
            callbacks=[Keep(), Evaluation(evaluate, 1)],
        ).fit()  # fmt: skip
    assert lanes[0].sae.training

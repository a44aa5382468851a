"""The training curves of a run, as TensorBoard has them."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)


def training_curves(run_dir: Path | None) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return (steps, values) by tag of what a run wrote into ``tensorboard/``, steps ascending, each once.

    Of a step that was logged again after a resume the last value counts. Nothing for None, and for a run without.
    """
    folder = run_dir and run_dir / "tensorboard"
    if folder is None or not folder.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    curves = {}
    for tag in events.Tags()["scalars"]:
        by_step = {event.step: event.value for event in events.Scalars(tag)}
        steps = sorted(by_step)
        curves[tag] = np.array(steps, np.float64), np.array([by_step[step] for step in steps], np.float64)
    return curves

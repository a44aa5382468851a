"""Several processes that share out the units of an evaluation; the figures are those of one."""

import logging
import multiprocessing
import os
import pickle
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from torch import Tensor

from sae_lightning.config import EvaluateConfig
from sae_lightning.core import UserError
from sae_lightning.core.progress import progress
from sae_lightning.metrics import Moments
from sae_lightning.studies.windows import Measured, Solo

logger = logging.getLogger(__name__)

_mine: dict[str, Solo] = {}


class Processes:
    """``n`` processes, each with its own SAE and language model; process r reads units r, r + n, r + 2n, ...

    Every unit is computed as one process would compute it, and what comes back is put in the order of the windows: the
    number of processes changes no bit of a figure (on CPUs: of one number of threads a process). With several GPUs
    process r uses GPU r mod their number. Raises UserError where a process dies (out of memory, most likely).
    """

    def __init__(self, n: int, config: EvaluateConfig, path: str) -> None:
        self.n = n
        context = multiprocessing.get_context("spawn")
        raw = config.model_dump(mode="json")
        self._workers = [
            ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(raw, path, rank, n))
            for rank in range(n)
        ]

    def moments(self, units: Sequence[list[int]]) -> dict[int, Moments]:
        out: dict[int, Moments] = {}
        for part in self._share(_moments, units):
            out |= part
        return out

    def measure(self, units: Sequence[list[int]], mean: Tensor | None) -> Measured:
        out: Measured = {}
        for part in self._share(_measure, units, mean):
            for study, windows in part.items():
                out.setdefault(study, {}).update(windows)
        return out

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.shutdown(cancel_futures=True)

    def _share(self, job: Any, units: Sequence[list[int]], *arguments: Any) -> list[Any]:
        # One call a unit, so that progress shows; a worker's calls run one after the other, in order.
        calls = [self._workers[i % self.n].submit(job, unit, *arguments) for i, unit in enumerate(units)]
        found = []
        try:
            with progress("evaluating", len(calls)) as advance:
                for call in calls:
                    found.append(pickle.loads(call.result()))
                    advance(1)
        except BrokenProcessPool as error:
            raise UserError(
                f"processes={self.n}: one of them died ({error}), most likely for want of memory; use fewer processes"
            ) from error
        return found


def _begin(raw: dict[str, Any], path: str, rank: int, n: int) -> None:
    """Build what this process measures with."""
    from sae_lightning import command
    from sae_lightning.build.evaluation import window_studies
    from sae_lightning.build.subject import build_subject
    from sae_lightning.config import validate

    command.quiet_warnings()
    logging.disable(logging.INFO)
    gpus = torch.cuda.device_count()
    if not gpus:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // n))
    config = validate(raw, EvaluateConfig)
    device = f"cuda:{rank % gpus}" if gpus > 1 and config.device in ("auto", "cuda") else None
    subject = build_subject(config, path, device).subject
    _mine["solo"] = Solo(subject, window_studies(config, subject), show_progress=False)


# Bytes, not tensors: these would travel as shared memory, one open file each.
def _moments(unit: list[int]) -> bytes:
    return pickle.dumps(_mine["solo"].moments([unit]))


def _measure(unit: list[int], mean: Tensor | None) -> bytes:
    measured = _mine["solo"].measure([unit], mean)
    for windows in measured.values():
        for metrics in windows.values():
            for metric in metrics:
                metric.load_state({name: value.cpu() for name, value in metric.state().items()})
    return pickle.dumps(measured)

"""Several runs at once on one machine, each in a process of its own that may die alone."""

import atexit
import importlib.util
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from sae_lightning.core.errors import UserError

logger = logging.getLogger(__name__)

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


class JoblibLauncher(Launcher):
    """Run jobs in ``n_jobs`` worker processes of joblib's loky, ``threads`` threads each.

    Each worker is a pool of its own: where one dies (killed, out of memory) its job alone has failed, and a new
    worker takes the next one. (``joblib.Parallel``, which hydra-joblib-launcher uses, ends every job of the sweep
    then.) Workers live on between jobs, so torch is imported once in each.

    n_jobs: null: as many as there are jobs, at most the cores. threads: null: the cores divided by n_jobs; the
    user's own OMP_NUM_THREADS stays the most.
    """

    def __init__(self, n_jobs: int | None = None, threads: int | None = None) -> None:
        super().__init__()
        self.n_jobs = n_jobs
        self.threads = threads
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None
        self._idle: list[Any] = []  # workers of the last launch: a sweep of many batches imports torch once in each
        self._env: dict[str, str] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        for name, value in (("n_jobs", self.n_jobs), ("threads", self.threads)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UserError(f"hydra.launcher.{name}={value}: must be a whole number from 1, or null")
        if importlib.util.find_spec("joblib") is None:
            raise UserError("launcher=joblib: needs the package joblib; pip install 'sae_lightning[joblib]'")
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function
        atexit.register(self._end_idle)

    def workers(self, n_jobs: int) -> int:
        """Return how many processes run at once when there are ``n_jobs`` jobs."""
        from joblib import cpu_count

        return max(1, min(n_jobs, self.n_jobs or cpu_count()))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        assert self.config is not None
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        n_workers = self.workers(len(job_overrides))
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(len(job_overrides)):
            waiting.put(index)
        results: list[JobReturn | None] = [None] * len(job_overrides)
        self._share_threads(n_workers)
        logger.info("%d runs in %d processes of %s threads", len(results), n_workers, self._env["OMP_NUM_THREADS"])
        context = (self.config, self.hydra_context, self.task_function, Singleton.get_state())

        def serve() -> None:
            worker = self._worker()
            while (index := take(waiting)) is not None:
                number = initial_job_idx + index
                result = results[index] = outcome(worker, list(job_overrides[index]), number, context)
                if result.status == JobStatus.FAILED:
                    logger.warning("run %d: %s", number, result._return_value)
                if isinstance(result._return_value, WorkerDied):
                    worker.shutdown(wait=False, kill_workers=True)
                    worker = self._worker()
            self._idle.append(worker)

        # Daemons: Ctrl-C ends the command, and the workers end with it.
        threads = [threading.Thread(target=serve, daemon=True) for _ in range(n_workers)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            while take(waiting) is not None:
                pass
            raise
        return [result or failed(job_overrides[i], "it was never started") for i, result in enumerate(results)]

    def _share_threads(self, n_workers: int) -> None:
        """Divide the machine's threads among the workers; end the idle ones when their share is another."""
        env = thread_variables(n_workers, self.threads)
        if env != self._env:
            self._end_idle()
        self._env = env

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop().shutdown(kill_workers=True)

    def _worker(self) -> Any:
        """Return a pool of one process, which starts with its first job."""
        from joblib.externals.loky import ProcessPoolExecutor

        if self._idle:
            return self._idle.pop()
        return ProcessPoolExecutor(1, initializer=end_with, initargs=(os.getpid(),), env=self._env)


class WorkerDied(UserError):  # noqa: N818 - says what happened
    """The process of a run ended before the run did."""


def failed(overrides: Sequence[str], reason: str) -> JobReturn:
    """Return what a job that did not come back returns."""
    result = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    result.return_value = WorkerDied(reason)
    return result


def take(waiting: "queue.SimpleQueue[int]") -> int | None:
    """Return the next waiting job, None when there is none."""
    try:
        return waiting.get_nowait()
    except queue.Empty:
        return None


def outcome(worker: Any, overrides: list[str], number: int, context: tuple[Any, ...]) -> JobReturn:
    """Run one job in a worker and wait for it; a worker that died, or a result that cannot travel, is a failed job."""
    try:
        return worker.submit(execute, overrides, number, *context).result()
    except BrokenExecutor as error:
        signals = ", ".join(re.findall(r"SIG[A-Z]+", str(error))) or "it gave no reason"
        return failed(overrides, f"its process died ({signals}); was memory short?")
    except BaseException as error:  # an exit within the run, or a result that cannot travel between processes
        return failed(overrides, f"{type(error).__name__}: {error}")


def execute(
    overrides: list[str],
    number: int,
    base: DictConfig,
    hydra_context: HydraContext,
    task_function: TaskFunction,
    singletons: dict[Any, Any],
) -> JobReturn:
    """Run one job, in a worker."""
    setup_globals()
    Singleton.set_state(singletons)
    config = hydra_context.config_loader.load_sweep_config(base, overrides)
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
        if "progress" in config:
            config.progress = False  # bars of several processes would write over each other
    return run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def thread_variables(n_workers: int, threads: int | None) -> dict[str, str]:
    """Return the environment that gives each of ``n_workers`` processes its share of the machine's threads."""
    from joblib import cpu_count

    share = threads or max(1, cpu_count() // n_workers)
    own = os.environ.get("OMP_NUM_THREADS", "")
    if threads is None and own.isdigit():
        share = min(share, max(1, int(own)))
    return dict.fromkeys(_THREAD_VARIABLES, str(share))


def end_with(parent: int) -> None:
    """End this process soon after its parent has gone: a killed sweep leaves no runs behind that nobody counts."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

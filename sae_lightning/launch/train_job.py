"""What runs on the node: the training command on a run folder, from the frozen source."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import sae_lightning
from sae_lightning.launch.frozen import job_environment
from sae_lightning.launch.overrides import assign


class TrainJob:
    """``python -m sae_lightning.train resume=RUN_DIR``, for submitit.

    When the time limit is near or the job is preempted, Slurm sends a signal, submitit calls ``checkpoint``, the run
    saves, and the job goes back into the queue: it then continues from there, bit for bit.
    """

    def __init__(self, run_dir: Path, source: Path, cwd: Path) -> None:
        self.run_dir = str(run_dir)
        self.source = str(source)
        self.cwd = str(cwd)
        self._process: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": None}

    def __call__(self) -> str:
        imported = Path(sae_lightning.__file__).resolve()
        if not imported.is_relative_to(Path(self.source).resolve()):
            raise RuntimeError(f"imported {imported}, which is not the source frozen in {self.source}")
        if Path(self.run_dir, "metrics.json").is_file():
            return self.run_dir  # queued again after its last step
        env = os.environ | job_environment(Path(self.source), Path(self.cwd))
        if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):
            env.setdefault("OMP_NUM_THREADS", cpus)
        env.pop("SLURM_NTASKS", None)  # Lightning would take the job for its own and queue it again itself
        words = [sys.executable, "-m", "sae_lightning.train", assign("resume", self.run_dir)]
        # Slurm's signal goes to every process of the job; the run is told by checkpoint, with one it can answer.
        before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        self._process = subprocess.Popen(words, env=env, cwd=self.cwd)
        signal.signal(signal.SIGUSR2, before)
        # Popen.wait holds a lock, in which checkpoint's own wait (in a signal handler) would hang.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        code = self._process.wait()
        if code != 0:
            raise RuntimeError(f"the run ended with exit code {code}")
        return self.run_dir

    def checkpoint(self) -> Any:
        """Have the run save and end; return what submitit shall queue again."""
        import submitit

        if self._process is not None:
            os.kill(self._process.pid, signal.SIGTERM)
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(self)

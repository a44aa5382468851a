"""Runs that are killed: a process that has imported everything and forks a child a run, so that a run costs seconds.

Reads one JSON list of jobs from stdin and runs them in turn. A job: overrides, run_dir, and optionally resume,
kill_after_checkpoint (seconds after the first whole checkpoint at which the child gets ``signal``), ranks (as many
children, each a rank of one run; killed is rank ``victim``). Prints one JSON list of {"status": exit code or minus
signal (of ranks: a list), "seconds": ...}. The parent imports and never computes: a fork of a process whose torch has
started its threads would hang.
"""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def child(job: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(1)
    from sae_lightning import command
    from sae_lightning.config import load_config, validate
    from sae_lightning.launch.ranks import among_ranks
    from sae_lightning.train import log_to, train

    run_dir = Path(job["run_dir"])
    suffix = ".out" if os.environ.get("RANK", "0") == "0" else f".{os.environ['RANK']}.out"
    log = os.open(run_dir.with_suffix(suffix), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    with among_ranks():
        if "ranks" in job:
            log_to(run_dir)
        if job.get("resume"):
            config = load_config(run_dir)
            if "devices" in job:
                config.trainer.devices = job["devices"]
            train(config, run_dir, resume=True)
        else:
            train(validate(command.plain(command.compose("train", job["overrides"]))), run_dir)


def fork(job: dict[str, Any], **variables: str) -> int:
    """Run a job in a child with these environment variables; return its process id."""
    pid = os.fork()
    if pid == 0:
        os.environ |= variables
        code = 1
        try:
            child(job)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(code)
    return pid


def run(job: dict[str, Any]) -> dict[str, Any]:
    if "ranks" not in job:
        return watch(job, [fork(job)])
    world = str(job["ranks"])
    with tempfile.TemporaryDirectory() as folder:
        common = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "SAE_LIGHTNING_RANKS": folder}
        pids = [fork(job, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(job["ranks"])]
        result = watch(job, pids)
        words = [Path(folder) / f"rank-{rank}.json" for rank in range(job["ranks"])]
        return result | {"words": [json.loads(path.read_text()) if path.is_file() else {} for path in words]}


def watch(job: dict[str, Any], pids: list[int]) -> dict[str, Any]:
    """Wait for the processes of a job, and kill the one that is to be killed."""
    started = time.monotonic()
    pid = pids[job.get("victim", 0)]
    delay = job.get("kill_after_checkpoint")
    if delay is not None:
        folder = Path(job["run_dir"]) / "checkpoints"
        while not list(folder.glob("step-*.ckpt.sha256")):
            time.sleep(0.002)
            if os.waitpid(pid, os.WNOHANG)[0]:
                raise SystemExit(f"the run ended before its first checkpoint: {job}")
        time.sleep(delay)
        os.kill(pid, job.get("signal", signal.SIGKILL))
    killed = time.monotonic()
    codes = [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in pids]
    now = time.monotonic()
    status = codes if "ranks" in job else codes[0]
    return {"status": status, "seconds": now - started, "after_signal": now - killed}


def main() -> None:
    # The slowest imports of all, paid once.
    import transformer_lens  # noqa: F401

    import sae_lightning.build
    import sae_lightning.reports
    import sae_lightning.training.callbacks  # noqa: F401

    print(json.dumps([run(job) for job in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()

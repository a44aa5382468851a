"""Runs that are killed: a process that has imported everything and forks a child a run, so that a run costs seconds.

Reads one JSON list of jobs from stdin and runs them in turn. A job: overrides, run_dir, and optionally resume,
kill_after_checkpoint (seconds after the first whole checkpoint at which the child gets ``signal``). Prints one JSON
list of {"status": exit code or minus signal, "seconds": ...}. The parent imports and never computes: a fork of a
process whose torch has started its threads would hang.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def child(job: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(1)
    from sae_lightning import command
    from sae_lightning.config import load_config, validate
    from sae_lightning.train import train

    run_dir = Path(job["run_dir"])
    log = os.open(run_dir.with_suffix(".out"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if job.get("resume"):
        train(load_config(run_dir), run_dir, resume=True)
    else:
        train(validate(command.plain(command.compose("train", job["overrides"]))), run_dir)


def run(job: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
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
    _, status = os.waitpid(pid, 0)
    now = time.monotonic()
    return {"status": os.waitstatus_to_exitcode(status), "seconds": now - started, "after_signal": now - killed}


def main() -> None:
    import transformer_lens  # noqa: F401 - the slowest import of all, paid once

    print(json.dumps([run(job) for job in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()

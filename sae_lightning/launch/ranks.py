"""Processes that train one run together: which of them this one is, how they find each other, how each one ends."""

import ctypes
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sae_lightning.core.errors import UserError
from sae_lightning.core.files import write_json

if TYPE_CHECKING:
    from sae_lightning.config import RunConfig
    from sae_lightning.core import Ranks

logger = logging.getLogger("sae_lightning.train")

#: Where the processes of a supervisor meet and leave word; its presence says that there is one.
FOLDER = "SAE_LIGHTNING_RANKS"
#: Exit code of a process that ends because another one has gone.
LOST = 75
# The others wait for as long as one of them measures or writes; whoever dies is noticed at once, by other means.
_PATIENCE = timedelta(hours=6)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Place:
    """One process among ``world``, of which ``local_world`` are on this machine."""

    rank: int
    world: int
    local_rank: int
    local_world: int


def place() -> Place | None:
    """Return which of several processes this is, as its environment says; None where it was started on its own.

    torchrun and our own supervisor set RANK and the like. A task of ``srun`` has Slurm's variables; those of a job's
    script, in which nobody has started tasks yet, do not count.
    """
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        rank, world = int(env["RANK"]), int(env["WORLD_SIZE"])
        local = int(env.get("LOCAL_RANK", rank))
        found = Place(rank, world, local, int(env.get("LOCAL_WORLD_SIZE", world)))
    elif "SLURM_PROCID" in env and ("SLURM_STEP_NUM_TASKS" in env or "SLURM_NTASKS" in env) and _in_step():
        world = int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", "1")))
        per_node = env.get("SLURM_STEP_TASKS_PER_NODE", env.get("SLURM_TASKS_PER_NODE", str(world)))
        local_world = int(per_node.split(",")[0].split("(")[0])
        found = Place(int(env["SLURM_PROCID"]), world, int(env.get("SLURM_LOCALID", "0")), local_world)
    else:
        return None
    return found if found.world > 1 else None


def _in_step() -> bool:
    """Whether this is a task of a job's step. The number of a script's or an interactive shell's is a special one."""
    step = os.environ.get("SLURM_STEP_ID", os.environ.get("SLURM_STEPID", ""))
    return step.isdigit() and int(step) < 0xFFFFFFF0


def join(config: "RunConfig") -> "Ranks":
    """Meet the other processes of the run and return who is who; alone where the run is one process.

    gloo on CPUs, NCCL between GPUs, of which each process takes that of its number on the machine.
    Raises UserError where other processes were started than ``trainer.devices`` asks for, and where GPUs are lacking.
    """
    import torch
    import torch.distributed as dist

    from sae_lightning.build.device import training_device
    from sae_lightning.core import Ranks

    here, devices = place(), config.trainer.devices
    if here is None:
        return Ranks()
    if here.world != devices:
        raise UserError(
            f"trainer.devices={devices}: {here.world} processes were started together (by srun or torchrun); set "
            f"trainer.devices={here.world}, or start {devices}"
        )
    if dist.is_initialized():
        return Ranks.present()
    os.environ["LOCAL_WORLD_SIZE"] = str(here.local_world)
    backend = "gloo"
    if training_device(config).type == "cuda":
        if here.local_world > torch.cuda.device_count():
            raise UserError(
                f"trainer.devices={devices}: this machine has {torch.cuda.device_count()} GPUs for "
                f"{here.local_world} processes; lower it, or set trainer.accelerator=cpu"
            )
        torch.cuda.set_device(here.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    if here.local_world == here.world:  # nobody beyond this machine is meant
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        if sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    folder = os.environ.get(FOLDER)
    if folder is not None:
        _end_with_parent()
        method = (Path(folder) / "store").as_uri()
    else:
        method = f"tcp://{_address()}"
    dist.init_process_group(backend, init_method=method, rank=here.rank, world_size=here.world, timeout=_PATIENCE)
    return Ranks.present()


def leave() -> None:
    """Part from the other processes."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _address() -> str:
    """Return host and port of rank 0: torchrun's, or the first of Slurm's hosts and a port by the job's number."""
    env = os.environ
    host, port = env.get("MASTER_ADDR"), env.get("MASTER_PORT")
    if host is None:
        # node[03-07,12],other: the number that a range begins with belongs to the first host.
        nodes = env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "127.0.0.1"))
        host = re.sub(r"\[([^],-]*)[^]]*\]", r"\1", nodes).split(",")[0]
    if port is None:
        port = str(15_000 + (10 * int(env.get("SLURM_JOB_ID", "0")) + int(env.get("SLURM_STEP_ID", "0"))) % 10_000)
    return f"{host}:{port}"


def _end_with_parent() -> None:
    """Have the kernel kill this process when its supervisor is killed: nobody else would end it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            raise SystemExit(LOST)


def word_path(folder: str | Path, rank: int) -> Path:
    """Return where a process leaves word of why it ended."""
    return Path(folder) / f"rank-{rank}.json"


@contextmanager
def among_ranks() -> Iterator[None]:
    """Run what one of several processes does: what ends it goes to the supervisor, or in one line to the terminal."""
    here, folder = place(), os.environ.get(FOLDER)
    if here is None:
        yield
        return
    try:
        yield
    except UserError as error:
        if folder is None:
            raise
        write_json(word_path(folder, here.rank), {"mistake": str(error)})
        raise SystemExit(2) from None
    except RuntimeError as error:
        if not _is_loss(error):
            if folder is not None:
                write_json(word_path(folder, here.rank), {"failure": f"{type(error).__name__}: {error}"})
            raise
        logger.debug("rank %d: another process has gone", here.rank, exc_info=error)
        if folder is None:
            logger.error("rank %d of %d ends: another process of this run has ended", here.rank, here.world)
        raise SystemExit(LOST) from None
    except Exception as error:
        if folder is not None:
            write_json(word_path(folder, here.rank), {"failure": f"{type(error).__name__}: {error}"})
        raise


def _is_loss(error: RuntimeError) -> bool:
    """Whether a collective failed because a process at its other end is no longer there."""
    import torch.distributed as dist

    words = ("gloo/", "Connection closed by peer", "Connection reset by peer", "NCCL")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)

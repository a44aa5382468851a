"""Slurm's own commands, asked and read: squeue, scontrol, scancel. Nothing here decides when a job runs."""

import re
import subprocess
from dataclasses import dataclass

from sae_lightning.core import UserError

# What Slurm calls a job that will not run any more (a requeued one is PENDING again).
ENDED = frozenset(
    ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED")
)
# The comment of a job of ours says whose it is; its sweep's folder follows.
COMMENT = "sae_lightning sweep "


@dataclass(frozen=True)
class State:
    """One line of squeue: ``name`` is Slurm's word (PENDING, RUNNING, ...), ``sweep`` the job's sweep folder."""

    job: str
    name: str
    reason: str = ""
    time: str = ""
    node: str = ""
    sweep: str = ""

    @property
    def ended(self) -> bool:
        return self.name in ENDED

    @property
    def held(self) -> bool:
        return self.reason.startswith("JobHeld")


def call(*words: str, remedy: str = "see the message") -> str:
    """Run one of Slurm's commands and return what it printed. Raises UserError: not there, or it refuses."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError:
        raise UserError(
            f"{words[0]}: there is no such command here; run this where Slurm is installed, or use launcher=joblib"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{words[0]}: Slurm gave no answer within two minutes; try again later") from None
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise UserError(f"{' '.join(words[:3])}: {said}; {remedy}")
    return done.stdout


def states() -> dict[str, State]:
    """Return the present user's jobs that came from a sweep here, by job id: those waiting or running, and those that
    ended within the last minutes."""
    # The comment holds a path, which may hold the separator: it comes last.
    printed = call("squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%M|%N|%k")
    out = {}
    for line in printed.splitlines():
        job, name, reason, time, node, comment = line.split("|", 5)
        if comment.startswith(COMMENT):
            out[job] = State(job, name, reason, time, node, comment.removeprefix(COMMENT))
    return out


def hold(job: str) -> None:
    """Keep a pending job from starting."""
    call("scontrol", "hold", job, remedy="only a pending job can be held")


def release(job: str) -> None:
    """Let a held job start again."""
    call("scontrol", "release", job)


def cancel(jobs: list[str]) -> None:
    """Cancel jobs; a running one is told to stop first and saves its state."""
    call("scancel", *jobs)


def describe(job: str) -> str:
    """Return what Slurm knows of a job; empty when it has forgotten it."""
    try:
        return call("scontrol", "show", "job", job).strip()
    except UserError:
        return ""


def nodes() -> list[dict[str, str]]:
    """Return a row a node: name, partitions, state, CPUs and memory used and there, GPUs used and there."""
    rows = []
    for line in call("scontrol", "--details", "--oneliner", "show", "nodes").splitlines():
        if not line.startswith("NodeName="):
            continue
        # Some values hold spaces (OS=Linux 6.1 ...); none of those asked for here does.
        field = dict(re.findall(r"(\w+)=(\S*)", line))
        rows.append(
            {
                "node": field["NodeName"],
                "partition": field.get("Partitions", ""),
                "state": field.get("State", ""),
                "cpus": f"{field.get('CPUAlloc', '0')}/{field.get('CPUTot', '0')}",
                "memory GiB": f"{_gib(field.get('AllocMem'))}/{_gib(field.get('RealMemory'))}",
                "gpus": f"{_gpus(field.get('GresUsed'))}/{_gpus(field.get('Gres'))}",
                "accelerators": _devices(field.get("Gres")),
            }
        )
    return rows


def _gib(megabytes: str | None) -> str:
    return f"{int(megabytes or 0) / 1024:.0f}"


def _gpus(gres: str | None) -> int:
    """Count the GPUs of ``gpu:a100:4(S:0-1),gpu:2``."""
    return sum(int(n) for n in re.findall(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)", gres or ""))


def _devices(gres: str | None) -> str:
    return "none" if gres in (None, "", "(null)") else re.sub(r"\([^)]*\)", "", gres)

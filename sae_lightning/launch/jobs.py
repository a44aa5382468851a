"""Jobs of a sweep as their run folders show them: job.json, progress, and what Slurm says of them."""

import datetime
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lightning.config import OVERRIDES_FILE, RunConfig
from sae_lightning.core import UserError, write_json
from sae_lightning.launch.scheduler import State

RECORD = "job.json"


def now() -> str:
    """Return the time as job.json writes it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def new_record(overrides: list[str], source: Path, resources: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """Return the job.json of a run that is about to be submitted; the id comes with the submission."""
    frozen = json.loads((source / "source.json").read_text(encoding="utf-8"))
    git = frozen["git"]
    return {
        "format": 1,
        "job_id": None,
        "submitted": now(),
        "overrides": overrides,
        "cwd": str(Path.cwd()),
        "source": str(source),
        "sha256": frozen["sha256"],
        "git": git and {"sha": git["sha"], "changed": bool(git["patch"])},
        "packages": frozen["packages"],
        "cache": {"mode": config.data.cache, "dir": config.data.cache_dir, "address": None} if config.lm else None,
        "resources": resources,
        "logs": [],
        "edited": [],
        "cancelled": None,
    }


@dataclass
class Job:
    """A run folder that was submitted, and its job.json.

    job.json: format, job_id, submitted, overrides (what the config was composed from), cwd (what relative paths in
    them mean), source (the frozen tree), sha256, git, packages, cache, resources, logs, edited, cancelled.
    """

    run_dir: Path
    record: dict[str, Any]

    @classmethod
    def load(cls, run_dir: Path) -> "Job":
        path = run_dir / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(record, dict) or "overrides" not in record:
                raise ValueError("no job in it")
        except ValueError as error:
            raise UserError(f"{path}: is no readable record of a job ({error}); remove it or submit anew") from None
        return cls(run_dir, record)

    def save(self) -> None:
        write_json(self.run_dir / RECORD, self.record)

    def remove(self) -> None:
        """Take away the folder of a run that was never submitted: what was written for it, and nothing else."""
        for name in (RECORD, "config.yaml", OVERRIDES_FILE):
            (self.run_dir / name).unlink(missing_ok=True)
        if not any(self.run_dir.iterdir()):
            self.run_dir.rmdir()

    @property
    def id(self) -> str:
        return self.record.get("job_id") or "-"

    @property
    def sweep_dir(self) -> Path:
        return Path(self.record["source"]).parent

    @property
    def complete(self) -> bool:
        return (self.run_dir / "metrics.json").is_file()

    @property
    def begun(self) -> bool:
        return any((self.run_dir / "checkpoints").glob("step-*"))

    def state(self, known: dict[str, State]) -> State:
        """Return what Slurm says of the job, else what the run folder shows.

        Ids start again on another cluster, so Slurm's answer counts only when it names the same sweep.
        """
        told = known.get(self.id)
        if told is not None and told.sweep == str(self.sweep_dir) and not (told.ended and self.complete):
            return told
        if self.complete:
            return State(self.id, "COMPLETED")
        if self.record.get("cancelled"):
            return State(self.id, "CANCELLED")
        return State(self.id, "ENDED", "without metrics.json")

    def progress(self) -> str:
        """Return how far the run is, from progress.json: step of steps, and the last fvu and l0."""
        try:
            read = json.loads((self.run_dir / "progress.json").read_text(encoding="utf-8"))
            line = f"{read['step']}/{read['total_steps']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "-"
        for name in ("fvu", "l0"):
            if isinstance(read.get(name), int | float):
                line += f" {name} {read[name]:.4g}"
        return line

    def log(self) -> list[str]:
        """Return the lines of the log that tells most: what the job printed, else the run's own."""
        for path in (*(Path(p) for p in reversed(self.record.get("logs", []))), self.run_dir / "train.log"):
            if path.is_file() and (lines := path.read_text(encoding="utf-8", errors="replace").splitlines()):
                return lines
        return []

    def why(self) -> str:
        """Return the line of the log that says why a run ended early, or an empty string."""
        lines = self.log()
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or [line for line in lines if line.strip()] or [""])[-1].removeprefix("error: ")


def find_jobs(folders: Iterable[Path]) -> list[Job]:
    """Return the jobs whose run folders lie in or below ``folders``, in the order of their ids."""
    found = {}
    for folder in folders:
        for root, below, files in os.walk(folder):
            if RECORD in files and "config.yaml" in files:
                found[Path(root).resolve()] = None
                below.clear()  # what lies in a run folder is its own
            below[:] = [name for name in below if not name.startswith(".") and name != "source"]
    jobs = [Job.load(path) for path in found]
    return sorted(jobs, key=lambda job: ([int(p) for p in job.id.split("_") if p.isdigit()], str(job.run_dir)))


def as_table(header: list[str], rows: list[list[str]]) -> str:
    """Return rows in aligned columns, for a terminal or a pipe."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (header, *rows)
    )


def job_table(jobs: list[Job], known: dict[str, State]) -> str:
    """Return a table of jobs: id, state, why it waits or where it runs, time, progress, run folder."""
    rows = []
    for job in jobs:
        state = job.state(known)
        where = state.node or ("" if state.reason == "None" else state.reason)
        rows.append([job.id, state.name, where, state.time, job.progress(), shown(job.run_dir)])
    return as_table(["JOB", "STATE", "WHERE OR WHY", "TIME", "STEP", "RUN FOLDER"], rows)


def shown(path: Path) -> str:
    """Return a path as short as it can be typed here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

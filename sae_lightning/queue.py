"""Jobs of a sweep on Slurm: ``python -m sae_lightning.queue list|show|edit|cancel|hardware``."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

from sae_lightning import command
from sae_lightning.core import UserError
from sae_lightning.launch import scheduler
from sae_lightning.launch.frozen import job_environment
from sae_lightning.launch.jobs import Job, as_table, find_jobs, job_table, now
from sae_lightning.launch.overrides import absolute, merged

_LOG_LINES = 20


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        command.fail(f"{message}; see {self.prog} --help")


def list_jobs(folder: str | None) -> None:
    """Print the jobs below a folder, or all that Slurm knows and those in ./outputs."""
    known = scheduler.states()
    jobs = _jobs(folder, known)
    command.say(job_table(jobs, known) if jobs else f"no jobs in {folder or 'Slurm or outputs/'}")


def show(name: str, folder: str | None) -> None:
    """Print everything about a job: Slurm's words, what it was made of, its config, the end of its log."""
    known = scheduler.states()
    for job in _named([name], folder, known):
        command.say(job_table([job], known))
        record = {key: value for key, value in job.record.items() if key != "packages"}
        command.say("\n" + as_table(["KEY", "VALUE"], [[key, str(value)] for key, value in record.items()]))
        command.say(f"\nconfig.yaml\n{(job.run_dir / 'config.yaml').read_text(encoding='utf-8')}")
        if described := scheduler.describe(job.id):
            command.say(f"Slurm\n{described}\n")
        command.say("\n".join(["log", *job.log()[-_LOG_LINES:]]))


def edit(name: str, overrides: list[str], folder: str | None) -> None:
    """Change overrides of one pending job: hold it, compose anew from the frozen source, check, write, release."""
    known = scheduler.states()
    jobs = _named([name], folder, known)
    if len(jobs) > 1:
        raise UserError(f"{name}: names {len(jobs)} jobs; edit one at a time, e.g. {jobs[0].id}")
    (job,) = jobs
    state = job.state(known)
    rule = "only a pending run that has not begun can be edited; cancel it and submit another"
    if state.name != "PENDING" or job.begun:
        raise UserError(f"job {job.id}: is {state.name.lower()}{' and has begun' if job.begun else ''}; {rule}")
    given = merged(job.record["overrides"], [absolute(o) for o in overrides])
    scheduler.hold(job.id)
    try:
        state = job.state(scheduler.states())
        if state.name != "PENDING":  # it started while we looked
            raise UserError(f"job {job.id}: is {state.name.lower()}; {rule}")
        _recompose(job, given)
        job.record["overrides"] = given
        job.record["edited"].append({"time": now(), "overrides": overrides})
        job.save()
    finally:
        if not known[job.id].held:  # one that its user held stays so
            scheduler.release(job.id)
    command.say(f"job {job.id}: {' '.join(given)}")


def cancel(names: list[str], folder: str | None) -> None:
    """Cancel jobs; those that have ended are named and left."""
    known = scheduler.states()
    jobs = _named(names, folder, known)
    active = [job for job in jobs if job.id in known and not job.state(known).ended]
    for job in jobs:
        if job not in active:
            command.say(f"job {job.id}: has ended ({job.state(known).name})")
    if not active:
        raise UserError(f"{' '.join(names)}: nothing to cancel; python -m sae_lightning.queue list shows what runs")
    scheduler.cancel([job.id for job in active])
    for job in active:
        job.record["cancelled"] = now()
        job.save()
    command.say(f"cancelled {', '.join(job.id for job in active)}")


def hardware() -> None:
    """Print the nodes with what they have and what of it is in use."""
    rows = scheduler.nodes()
    if not rows:
        raise UserError("scontrol: Slurm names no nodes; see sinfo")
    command.say(as_table([name.upper() for name in rows[0]], [list(row.values()) for row in rows]))


def _jobs(folder: str | None, known: dict[str, scheduler.State]) -> list[Job]:
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"{folder}: there is no such folder; give a sweep's folder, or one above it")
    if folder is not None:
        return find_jobs([Path(folder)])
    return find_jobs([Path("outputs"), *(Path(s) for s in {state.sweep for state in known.values()})])


def _named(names: list[str], folder: str | None, known: dict[str, scheduler.State]) -> list[Job]:
    """Return the jobs that ids (of a job or a whole array) or folders name."""
    out = {}
    every = _jobs(folder, known)
    for name in names:
        if Path(name).is_dir():
            found = find_jobs([Path(name)])
        else:
            found = [job for job in every if name in (job.id, job.id.split("_")[0])]
        if not found:
            raise UserError(f"{name}: no such job here; python -m sae_lightning.queue list shows them, or give --dir")
        out |= {job.run_dir: job for job in found}
    return list(out.values())


def _recompose(job: Job, overrides: list[str]) -> None:
    cwd = Path(job.record["cwd"])
    env = os.environ | job_environment(Path(job.record["source"]), cwd)
    words = [sys.executable, "-m", "sae_lightning.launch.recompose", str(job.run_dir), *overrides]
    done = subprocess.run(words, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))


def main(arguments: list[str] | None = None) -> None:
    parser = _Parser(prog="python -m sae_lightning.queue", description="Jobs of a sweep on Slurm.")
    actions: Any = parser.add_subparsers(dest="action", required=True, metavar="list|show|edit|cancel|hardware")
    for name, text in (("list", "jobs with their progress"), ("show", "everything about a job")):
        actions.add_parser(name, help=text)
    actions.choices["list"].add_argument("dir", nargs="?", help="a sweep's folder, or one above it")
    edits = actions.add_parser("edit", help="change overrides of a pending job: edit JOB key=value...")
    cancels = actions.add_parser("cancel", help="cancel jobs, by id (of a job or an array) or folder")
    actions.add_parser("hardware", help="nodes, their accelerators, and what is in use")
    actions.choices["show"].add_argument("job")
    edits.add_argument("job")
    edits.add_argument("overrides", nargs="+", metavar="key=value")
    cancels.add_argument("jobs", nargs="+", metavar="JOB")
    for sub in (actions.choices["show"], edits, cancels):
        sub.add_argument("--dir", help="where to look for jobs that Slurm has forgotten; default ./outputs")
    given = parser.parse_args(arguments)
    try:
        if given.action == "list":
            list_jobs(given.dir)
        elif given.action == "show":
            show(given.job, given.dir)
        elif given.action == "edit":
            edit(given.job, given.overrides, given.dir)
        elif given.action == "cancel":
            cancel(given.jobs, given.dir)
        else:
            hardware()
    except UserError as error:
        command.fail(str(error))
    except OSError as error:
        command.fail_for_file(error)


if __name__ == "__main__":
    main()

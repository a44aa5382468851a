"""``launcher=slurm``: every run of a sweep is a Slurm job, submitted through submitit."""

import contextlib
import importlib.util
import io
import logging
import re
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import Field, ValidationError

from sae_lightning import command
from sae_lightning.config import Count, RunConfig, Section
from sae_lightning.core import UserError
from sae_lightning.core.progress import progress
from sae_lightning.launch import jobs, scheduler
from sae_lightning.launch.frozen import freeze, job_environment
from sae_lightning.launch.jobs import Job, job_table, shown
from sae_lightning.launch.recompose import checked, write_run
from sae_lightning.launch.train_job import TrainJob
from sae_lightning.validation import one_line

logger = logging.getLogger(__name__)

_PATIENCE_S = 1800  # with a Slurm that does not answer


class SlurmOptions(Section):
    """What conf/launcher/slurm.yaml holds."""

    partition: str | None = None
    account: str | None = None
    gpus: Annotated[int, Ge(0)] = 0
    cpus_per_task: Count = 2
    mem_gb: Annotated[float, Gt(0)] | None = None
    timeout_min: Count = 720
    array_parallelism: Count = 256
    wait: bool | Literal["auto"] = "auto"
    poll_seconds: Annotated[float, Gt(0)] = 5.0
    setup: list[str] = Field(default_factory=list)
    sbatch: dict[str, Any] = Field(default_factory=dict)


class SlurmLauncher(Launcher):
    """Submit a sweep's runs as one job array.

    Each run folder gets its resolved config.yaml and a job.json; the source is frozen beside them; the job then is
    ``python -m sae_lightning.train resume=RUN_DIR`` from that source. A run whose config is wrong is not submitted and
    returned as failed, like any run that fails; the others go on. Raises UserError: no sbatch, no submitit, a wrong
    option, a submission that Slurm refuses (of which no run folder stays behind).
    """

    def __init__(self, **options: Any) -> None:
        self._given = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context
        given = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in self._given.items()}
        try:
            self.options = SlurmOptions.model_validate(given)
        except ValidationError as error:
            raise UserError(one_line(error, "hydra.launcher")) from None
        searches = "sae_lightning" in str(config.hydra.sweeper.get("_target_"))
        self.wait = searches if self.options.wait == "auto" else self.options.wait
        if shutil.which("sbatch") is None:
            raise UserError("launcher=slurm: there is no sbatch here; submit where Slurm is, or use launcher=joblib")
        if importlib.util.find_spec("submitit") is None:
            raise UserError("launcher=slurm: needs submitit; pip install 'sae_lightning[slurm]'")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        command.set_up_logging()
        sweep_dir = Path(self.config.hydra.sweep.dir).expanduser().resolve()
        sweep_dir.mkdir(parents=True, exist_ok=True)
        source = freeze(sweep_dir)
        returns, made = [], []
        try:
            for number, overrides in enumerate(job_overrides, start=initial_job_idx):
                result, job = self._prepare(list(overrides), number, sweep_dir, source)
                returns.append(result)
                made += [(job, result)] if job else []
            if made:
                self._submit([job for job, _ in made], sweep_dir, source)
        except BaseException:
            for job, _ in made:
                if job.id == "-":
                    job.remove()
            raise
        submitted = [job for job, _ in made]
        logger.info("%d of %d runs submitted; source frozen in %s", len(made), len(returns), shown(source))
        known = self._until_ended(submitted) if self.wait else scheduler.states()
        if submitted:
            command.say(job_table(submitted, known))
            command.say("python -m sae_lightning.queue list, show JOB, edit JOB key=value, cancel JOB")
        for job, result in made:
            self._conclude(job, result, known)
        return returns

    def _prepare(
        self, overrides: list[str], number: int, sweep_dir: Path, source: Path
    ) -> tuple[JobReturn, Job | None]:
        """Compose and check one run and write its folder; a mistake in it is the run's result."""
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(composed)
        try:
            own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
            given = list(composed.hydra.overrides.task)
            result = JobReturn(given, own, OmegaConf.masked_copy(composed, ["hydra"]), str(Path.cwd()), "train")
            try:
                config = checked(command.plain(own), given)
                run_dir = _run_dir(config, Path(str(composed.hydra.sweep.dir), str(composed.hydra.sweep.subdir)))
            except UserError as error:
                logger.warning("run %d (%s): not submitted: %s", number, " ".join(given), error)
                result.status, result.return_value = JobStatus.FAILED, error
                return result, None
        finally:
            HydraConfig.instance().cfg = before
        write_run(config, run_dir, given)
        job = Job(run_dir, jobs.new_record(given, source, self.options.model_dump(mode="json"), config))
        job.save()
        return result, job

    def _submit(self, made: list[Job], sweep_dir: Path, source: Path) -> None:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        options, cwd = self.options, Path.cwd()
        variables = job_environment(source, cwd)
        executor = submitit.SlurmExecutor(folder=sweep_dir / "slurm")
        wanted: Mapping[str, Any] = {
            "job_name": "sae_lightning",
            "partition": options.partition,
            "account": options.account,
            "gpus_per_node": options.gpus or None,
            "cpus_per_task": options.cpus_per_task,
            "mem": options.mem_gb and f"{round(options.mem_gb * 1024)}MB",
            "time": options.timeout_min,
            "array_parallelism": options.array_parallelism,
            "comment": scheduler.COMMENT + str(sweep_dir),
            # srun does not take this over from sbatch since Slurm 22.05.
            "srun_args": [f"--cpus-per-task={options.cpus_per_task}"],
            "setup": [*options.setup, *(f"export {name}={shlex.quote(v)}" for name, v in variables.items())],
            "additional_parameters": options.sbatch or None,
        }
        executor.update_parameters(**{name: value for name, value in wanted.items() if value is not None})
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # sbatch's words come in the error
                submitted = executor.submit_array([TrainJob(job.run_dir, source, cwd) for job in made])
        except (FailedJobError, FailedSubmissionError) as error:
            said = ", ".join(re.findall(r"sbatch: error: (.*)", str(error))) or str(error)
            remedy = (
                "check that Slurm is up (sinfo)"
                if "contact" in said or "resolve" in said
                else "change hydra.launcher.*"
            )
            raise UserError(f"launcher=slurm: sbatch refused the jobs ({said}); {remedy}") from None
        for job, sent in zip(made, submitted, strict=True):
            job.record |= {"job_id": sent.job_id, "logs": [str(sent.paths.stdout), str(sent.paths.stderr)]}
            job.save()

    def _until_ended(self, waiting: list[Job]) -> dict[str, scheduler.State]:
        """Wait until Slurm has no job of these left; return what it said of each last."""
        last: dict[str, scheduler.State] = {}
        left, heard = {job.id: job for job in waiting}, time.monotonic()
        try:
            with progress("jobs", total=len(waiting)) as advance:
                while left:
                    try:
                        known, heard = scheduler.states(), time.monotonic()
                    except UserError as error:  # a controller that restarts: the jobs do not mind
                        if time.monotonic() - heard > _PATIENCE_S:
                            raise
                        logger.warning("%s", error)
                    else:
                        ended = [i for i in left if i not in known or known[i].ended]
                        last |= {i: known[i] for i in left if i in known}
                        for i in ended:
                            del left[i]
                        running = sum(known[i].name == "RUNNING" for i in left)
                        advance(len(ended), f"{running} running, {len(left) - running} waiting")
                    if left:
                        time.sleep(self.options.poll_seconds)
        except KeyboardInterrupt:
            logger.warning("the jobs go on; see python -m sae_lightning.queue list")
            raise
        return last

    def _conclude(self, job: Job, result: JobReturn, known: dict[str, scheduler.State]) -> None:
        if job.complete or not self.wait:
            result.status, result.return_value = JobStatus.COMPLETED, str(job.run_dir)
            return
        state = job.state(known)
        why = job.why() or "no log"
        result.status = JobStatus.FAILED
        result.return_value = UserError(f"job {job.id} ({shown(job.run_dir)}): {state.name}: {why}")


def _run_dir(config: RunConfig, numbered: Path) -> Path:
    folder = (Path(config.paths.run_dir) if config.paths.run_dir else numbered).expanduser().resolve()
    if (folder / "config.yaml").exists():
        raise UserError(f"{folder}: holds a run already; choose another hydra.sweep.dir or paths.run_dir")
    return folder

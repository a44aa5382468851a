"""``sweep=optuna``: a Hydra sweeper that asks Optuna for the settings of each run and tells it how the run went."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from sae_lightning.core.errors import UserError
from sae_lightning.launch.sweep_settings import SweepSettings, make_sampler
from sae_lightning.validation import one_line

if TYPE_CHECKING:
    import optuna

    from sae_lightning.launch.search_space import SearchSpace

logger = logging.getLogger(__name__)

_WITH_LM = ("ce_clean", "ce_spliced", "delta_ce", "kl", "ce_recovered_zero", "ce_recovered_mean")
_DEFAULT_TRIALS = 20
# Overrides that change how a sweep is run and not what its trials are: they may differ when it goes on.
_NOT_PART_OF_A_TRIAL = ("hydra.", "hydra/", "launcher", "sweep", "progress", "data.cache")


class OptunaSweeper(Sweeper):
    """Run trials until the study has ``n_trials`` finished, pruned or failed ones, over all sittings.

    Trial N runs in ``sweep_dir/trial-NNN``; its values are read from that folder's metrics.json, so that it does not
    matter where a launcher ran it. A run without metrics is a failed trial with its reason, and the rest go on. The
    sampler is made anew for every batch, its seed derived from the batch's first number: a sweep that was killed asks
    for what it would have asked for without. Trials that were running when the sweep was killed are told if their run
    is complete, else marked failed.

    Raises UserError for settings or a search space that cannot work, before the first run; ends with exit code 1
    when every trial failed.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.raw = settings  # checked in setup: hydra would wrap an error that is raised here
        self.settings = SweepSettings()
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        raw = OmegaConf.to_container(OmegaConf.create(self.raw), resolve=True)
        assert isinstance(raw, dict)
        try:
            self.settings = SweepSettings.model_validate(raw)
        except ValidationError as error:
            raise UserError(one_line(error, "hydra.sweeper")) from None
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=-]*", self.settings.study):
            raise UserError(
                f"hydra.sweeper.study={self.settings.study!r}: names a folder; use letters, digits and . _ = -"
            )
        self._base, self._loader = config, hydra_context.config_loader
        if config.hydra.launcher.get("wait") is False:
            raise UserError(
                "hydra.launcher.wait=false: sweep=optuna needs each run's result; set hydra.launcher.wait=true"
            )
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    @property
    def sweep_dir(self) -> Path:
        """The folder of the sweep: storage, trials' run folders, front and log."""
        return Path(str(self._base.hydra.sweep.dir)).expanduser().resolve()

    def sweep(self, arguments: list[str]) -> None:
        # What answers to most mistakes comes first: optuna is quick to import, torch and lightning are not.
        from sae_lightning.launch.search_space import read_space

        given = [*(f"{key}={value}" for key, value in (self.settings.params or {}).items()), *arguments]
        parser = OverridesParser.create(config_loader=self._loader)
        space = read_space(parser.parse_overrides(given))
        grid = space.grid() if self.settings.sampler == "grid" else None
        self._check_composes(space)
        objectives = self.settings.directions()
        self._check(objectives)
        from sae_lightning import command
        from sae_lightning.launch.storage import only_controller
        from sae_lightning.studies.scaling.pareto import save_objectives

        with only_controller(self.sweep_dir):
            study = self._open(space, objectives)
            save_objectives(self.sweep_dir, objectives)
            command.set_up_logging(self.sweep_dir / "sweep.log")
            self._run(study, space, objectives, grid)
            command.set_up_logging(self.sweep_dir / "sweep.log")
            self._report(study, objectives)

    def _check(self, objectives: dict[str, str]) -> None:
        """Raise UserError for what cannot work with the config as it is without the search space."""
        settings, config = self.settings, self._base
        if OmegaConf.select(config, "paths.run_dir"):
            raise UserError("paths.run_dir: is one folder and a sweep needs many; leave it out")
        if OmegaConf.select(config, "lm", default="") is None and (names := [n for n in objectives if n in _WITH_LM]):
            raise UserError(f"hydra.sweeper.objectives={names[0]}: is measured with a language model; choose lm=")
        if OmegaConf.select(config, "bank") is not None:
            raise UserError("bank: a trial is one SAE; leave bank out, or train it without sweep=optuna")
        if names := [n for n in objectives if n in _WITH_LM]:
            if OmegaConf.select(config, "data.cache") == "only":
                raise UserError(f"hydra.sweeper.objectives={names[0]}: data.cache=only never reads the LM; use auto")
            if OmegaConf.select(config, "evaluation.downstream_tokens") == 0:
                raise UserError(f"hydra.sweeper.objectives={names[0]}: needs evaluation.downstream_tokens above 0")
        if settings.sampler == "tpe" and len(objectives) > 1:
            logger.info("tpe with %d objectives: nsga2 is made for several", len(objectives))
        if settings.pruner != "none" and list(objectives) != ["fvu"]:
            raise UserError(
                f"hydra.sweeper.pruner={settings.pruner}: judges runs by fvu alone; use objectives=[fvu] or pruner=none"
            )
        if settings.pruner != "none" and OmegaConf.select(config, "evaluation.every_n_steps") == 0:
            raise UserError("evaluation.every_n_steps=0: pruning needs evaluations during training; set it above 0")

    def _check_composes(self, space: "SearchSpace") -> None:
        """Raise UserError for an unknown choice of a group, hydra's error when none of them has the keys."""
        from itertools import islice, product

        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException
        from optuna.distributions import CategoricalDistribution

        groups = {
            key: d.choices
            for key, d in space.distributions.items()
            if isinstance(d, CategoricalDistribution) and self._loader.get_group_options(key)
        }
        for key, choices in groups.items():
            options = self._loader.get_group_options(key)
            for choice in choices:
                if choice not in options and choice != "null":
                    raise UserError(f"{key}={choice}: unknown choice; {key} is one of {', '.join(options)}")
        first_error: Exception | None = None
        for choices in islice(product(*groups.values()), 100):
            try:
                self._compose(space.overrides(space.first() | dict(zip(groups, choices, strict=True))))
                return
            except (HydraException, OmegaConfBaseException) as error:
                first_error = first_error or error
        assert first_error is not None
        raise first_error

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        return self._loader.load_sweep_config(self._base, list(overrides))

    def _open(self, space: "SearchSpace", objectives: dict[str, str]) -> "optuna.Study":
        from sae_lightning.launch.storage import open_study

        settings = self.settings
        pruner = {"name": settings.pruner, "startup": settings.pruner_startup, "warmup": settings.pruner_warmup}
        return open_study(
            self.sweep_dir,
            kind=settings.storage,
            name=settings.study,
            space=space.fingerprint(),
            fixed=[o for o in space.fixed if not o.lstrip("+~").startswith(_NOT_PART_OF_A_TRIAL)],
            objectives=objectives,
            pruner=pruner,
        )

    def _run(
        self,
        study: "optuna.Study",
        space: "SearchSpace",
        objectives: dict[str, str],
        grid: list[dict[str, Any]] | None,
    ) -> None:
        from sae_lightning import command
        from sae_lightning.launch.trials import ask, settle_leftovers, tell

        settings = self.settings
        total = settings.n_trials or (len(grid) if grid else _DEFAULT_TRIALS)
        if grid and total > len(grid):
            logger.info("the grid has %d points: %d trials, not %d", len(grid), len(grid), total)
            total = len(grid)
        done = settle_leftovers(study, self.sweep_dir, objectives)
        if done:
            logger.info("%s: %d trials there, %d to go", self.sweep_dir, done, max(0, total - done))
        while done < total:
            n = min(self._n_jobs(total - done), total - done)
            study.sampler = make_sampler(settings, total, done, len(objectives))
            batch = ask(study, space, n, grid)
            command.set_up_logging(self.sweep_dir / "sweep.log")
            for trial in batch:
                logger.info("trial %d of 0 to %d: %s", trial.number, total - 1, " ".join(space.sampled(trial.params)))
            jobs = self._launch([self._job(space, study, trial) for trial in batch], batch[0].number)
            command.set_up_logging(self.sweep_dir / "sweep.log")
            for trial, job in zip(batch, jobs, strict=True):
                tell(study, trial, self.sweep_dir, objectives, job)
            done += n

    def _n_jobs(self, remaining: int) -> int:
        if self.settings.n_jobs:
            return self.settings.n_jobs
        workers = getattr(self.launcher, "workers", None)
        return workers(remaining) if workers else 1

    def _job(self, space: "SearchSpace", study: "optuna.Study", trial: "optuna.Trial") -> list[str]:
        """Return the overrides of a trial's run."""
        from sae_lightning.launch.storage import STORAGE_FILES, trial_folder

        folder = trial_folder(self.sweep_dir, trial.number)
        overrides = [*space.overrides(trial.params), f"hydra.sweep.dir={_quoted(str(folder.parent))}"]
        overrides.append(f"hydra.sweep.subdir={folder.name}")
        if self.settings.pruner != "none":
            storage = _quoted(str(self.sweep_dir / STORAGE_FILES[self.settings.storage]))
            overrides.append(f"trial={{storage:{storage},study:{_quoted(study.study_name)},number:{trial.number}}}")
        return overrides

    def _launch(self, jobs: list[list[str]], first: int) -> list[JobReturn | Exception]:
        """Run a batch; return what each job returned, or why it could not be started."""
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        results: list[JobReturn | Exception | None] = []
        for job in jobs:
            try:
                self._compose(job)
                results.append(None)
            except (HydraException, OmegaConfBaseException) as error:
                results.append(error)
        startable = [job for job, result in zip(jobs, results, strict=True) if result is None]
        assert self.launcher is not None
        try:
            returned: list[JobReturn | Exception] = list(self.launcher.launch(startable, first)) if startable else []
        except UserError:
            raise  # the launcher itself cannot work
        except Exception as error:
            logger.exception("the launcher failed")
            returned = [error] * len(startable)
        rest = iter(returned)
        return [next(rest) if result is None else result for result in results]

    def _report(self, study: "optuna.Study", objectives: dict[str, str]) -> None:
        from sae_lightning.launch.trials import finish

        finish(study, self.sweep_dir, objectives)


def _quoted(text: str) -> str:
    """Quote a text for hydra's override grammar."""
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", "\\'")
    return f"'{escaped}'"

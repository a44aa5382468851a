"""The settings of ``sweep=optuna``, checked, and the sampler that they name."""

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge
from pydantic import Field

from sae_lightning.config import Count, CountOrZero, Section
from sae_lightning.core.errors import UserError, nearest

if TYPE_CHECKING:
    import optuna

# Metrics of which more is better; less of all others.
_MAXIMISED = ("explained_variance", "cosine", "l2_ratio", "ce_recovered_zero", "ce_recovered_mean")


class SweepSettings(Section):
    """What conf/sweep/optuna.yaml holds; every key is explained there."""

    study: str = "study"
    sampler: Literal["tpe", "nsga2", "grid", "random"] = "tpe"
    objectives: list[str] = Field(default=["fvu"])
    n_trials: Count | None = None
    n_jobs: Count | None = None
    seed: CountOrZero = 0
    population: Annotated[int, Ge(2)] | None = None
    startup: CountOrZero | None = None
    storage: Literal["journal", "sqlite"] = "journal"
    pruner: Literal["none", "median"] = "none"
    pruner_startup: CountOrZero = 5
    pruner_warmup: CountOrZero = 0
    params: dict[str, str] | None = None

    def directions(self) -> dict[str, str]:
        """Return metric -> minimise or maximise.

        Raises UserError: an unknown metric or direction, none at all, one given twice.
        """
        from sae_lightning.studies.evaluation.heldout import HELDOUT_KEYS

        given = {text.partition(":")[0]: text.partition(":")[2] for text in self.objectives}
        if not given or len(given) != len(self.objectives):
            raise UserError(f"hydra.sweeper.objectives={self.objectives}: must name metrics, each once; as in [l0,fvu]")
        for name, direction in given.items():
            if name not in HELDOUT_KEYS:
                hint = nearest(name, HELDOUT_KEYS)
                raise UserError(
                    f"hydra.sweeper.objectives={name}: unknown metric{hint}; there are {', '.join(HELDOUT_KEYS)}"
                )
            given[name] = direction.replace("ize", "ise") or ("maximise" if name in _MAXIMISED else "minimise")
            if given[name] not in ("minimise", "maximise"):
                raise UserError(
                    f"hydra.sweeper.objectives={name}:{direction}: unknown direction; write {name}:minimise "
                    f"or {name}:maximise"
                )
        return given


def make_sampler(settings: SweepSettings, total: int, number: int, n_objectives: int) -> "optuna.samplers.BaseSampler":
    """Return the sampler of the batch that begins with trial ``number``."""
    import optuna

    from sae_lightning.core.seeds import derive_seed

    seed = derive_seed(settings.seed, "launch", "sampler", number) % 2**32
    if settings.sampler == "tpe":
        startup = min(10, total // 2) if settings.startup is None else settings.startup
        return optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed, constant_liar=n_objectives == 1)
    if settings.sampler == "nsga2":
        population = settings.population or min(50, max(4, total // 4))
        return optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)

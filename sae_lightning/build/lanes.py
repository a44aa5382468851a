"""From config to a lane: SAE, its start, its objective, its normaliser."""

from sae_lightning.activations import Normaliser
from sae_lightning.build.data import Data, Fitted
from sae_lightning.build.execution import set_execution
from sae_lightning.build.instantiate import make
from sae_lightning.config import RunConfig
from sae_lightning.core import derive_seed
from sae_lightning.losses import Objective
from sae_lightning.sae import SparseAutoencoder, initialise
from sae_lightning.training import Lane, OptimSettings, auto_learning_rate
from sae_lightning.validation import check_arguments

#: Keys of ``sae:`` that loss terms read through interpolation and the SAE itself does not take.
COEFFICIENTS = ("l1", "l0", "target_l0")


def build_sae(config: RunConfig, d_in: int, d_out: int) -> SparseAutoencoder:
    """Build the SAE of a config, not yet initialised."""
    node = {name: value for name, value in config.sae.items() if name not in COEFFICIENTS}
    return make(node, "sae", d_in=d_in, d_out=d_out)


def build_objective(config: RunConfig) -> Objective:
    """Build the loss terms of a config; null terms are left out."""
    return Objective({name: make(node, f"losses.{name}") for name, node in config.losses.items() if node})


def build_lane(config: RunConfig, data: Data, fitted: Fitted | None = None) -> Lane:
    """Build a lane with its weights initialised from the calibration sample.

    With ``fitted`` (a resumed run) the checkpoint brings weights and normalisation, and nothing is initialised.
    """
    sae = build_sae(config, data.source.d_in, data.source.d_out)
    objective = build_objective(config)
    objective.check(sae)
    set_execution(sae, objective, config, None, fitted.product if fitted else None)
    options = check_arguments(initialise, config.init, "init", {"sae", "sample_x", "sample_y", "seed"})
    if data.sample is None:
        assert fitted is not None
        return Lane(sae, objective, Normaliser(config.normalise.mode, fitted.centre, sae.d_in, sae.d_out))
    normaliser = Normaliser.fit(data.sample, config.normalise.mode, config.normalise.centre)
    sample = normaliser.apply(data.sample)
    initialise(sae, sample, seed=derive_seed(config.seed, "init"), **options)
    set_execution(sae, objective, config, sample)
    return Lane(sae, objective, normaliser)


def optim_settings(config: RunConfig) -> OptimSettings:
    """Return the optimiser's settings with an automatic learning rate worked out."""
    optimizer, course = config.optimizer, config.scheduler
    lr = optimizer.lr
    if lr == "auto":
        lr = auto_learning_rate(
            optimizer.base_lr,
            config.sae["d_sae"],
            config.total_steps,
            scale_with_d_sae=optimizer.scale_with_d_sae,
            short_run_boost=optimizer.short_run_boost,
        )
    return OptimSettings(
        lr=lr,
        betas=optimizer.betas,
        eps=optimizer.eps,
        clip=optimizer.clip,
        warmup=course.warmup,
        decay=course.decay,
        final=course.final,
    )

"""From config to a lane: SAE, its start, its objective, its normaliser."""

import inspect
from dataclasses import replace

import torch
from torch import Tensor

from sae_lightning.activations import Normaliser
from sae_lightning.build.data import Data, Fitted
from sae_lightning.build.execution import set_execution
from sae_lightning.build.instantiate import make, target_of
from sae_lightning.build.layout import Layout
from sae_lightning.build.start import start_from
from sae_lightning.config import Node, RunConfig
from sae_lightning.core import Ranks, Schedule, UserError, derive_seed
from sae_lightning.losses import LossTerm, Objective
from sae_lightning.sae import SparseAutoencoder, initialise
from sae_lightning.sae.sharding import cut
from sae_lightning.training import Lane, OptimSettings, auto_learning_rate
from sae_lightning.validation import check_arguments

#: Keys of ``sae:`` that loss terms read through interpolation and the SAE itself does not take.
COEFFICIENTS = ("l1", "l0", "target_l0")


def sae_node(config: RunConfig, layout: Layout | None = None) -> Node:
    """Return the node of a config's SAE: its constructor's arguments, but for those that the data decide.

    What is null follows from the sites where they are known, else from the widths. A transcoder's b_dec is no centre of
    what it reads, however wide that is, and its decoder starts at 0 and finds norms of its own.
    """
    node = {name: value for name, value in config.sae.items() if name not in COEFFICIENTS}
    if layout is not None and layout.transcodes:
        known = inspect.signature(target_of(node, "sae")).parameters
        for name in ("subtract_b_dec", "unit_norm_decoder", "rescale_acts_by_decoder_norm"):
            if name in known and node.get(name) is None:
                node[name] = False
    return node


def build_sae(config: RunConfig, layout: Layout) -> SparseAutoencoder:
    """Build the SAE of a config for rows of this layout, not yet initialised."""
    node = sae_node(config, layout)
    several = {"site_widths": layout.widths_out} if layout.crosses else {}
    if not config.trainer.sharded:
        return make(node, "sae", d_in=layout.d_in, d_out=layout.d_out, **several)
    with torch.device("meta"):
        sae = make(node, "sae", d_in=layout.d_in, d_out=layout.d_out, **several)
    cut(sae, Ranks.present())
    return sae


def build_objective(config: RunConfig) -> Objective:
    """Build the loss terms of a config; null terms are left out, and those through the model whose weight is 0."""
    terms: dict[str, LossTerm] = {n: make(node, f"losses.{n}") for n, node in config.losses.items() if node}
    weight = config.objective.reconstruction
    for term in terms.values():
        if term.is_reconstruction and weight != 1:
            own = term.coefficient
            term.coefficient = replace(own, value=own.value * weight, final=own.final * weight)
    # A run of the language model is not made for a term that never counts.
    return Objective({n: t for n, t in terms.items() if not t.reads_model or _counts(t.coefficient)})


def _counts(coefficient: Schedule) -> bool:
    return coefficient.value != 0 or (coefficient.kind in ("linear", "cosine") and coefficient.final != 0)


def build_lane(config: RunConfig, data: Data, fitted: Fitted | None = None) -> Lane:
    """Build a lane with its weights initialised from the calibration sample.

    With ``fitted`` (a resumed run) the checkpoint brings weights and normalisation, and nothing is initialised.
    """
    sae = build_sae(config, data.layout)
    objective = build_objective(config)
    objective.check(sae)
    set_execution(sae, objective, config, None, fitted.product if fitted else None)
    options = check_arguments(initialise, config.init, "init", {"sae", "sample_x", "sample_y", "seed"})
    if data.sample is None:
        assert fitted is not None
        return Lane(sae, objective, Normaliser(config.normalise.mode, fitted.centre, sae.d_in, sae.d_out))
    x, y = data.sample, None if data.targets is data.sample else data.targets
    normaliser = _fit(config, data.layout, x, y)
    sample = normaliser.apply(x)
    wanted = None if y is None else normaliser.apply_output(y, x)
    initialise(sae, sample, wanted, seed=derive_seed(config.seed, "init"), **options)
    if config.init_from:
        start_from(sae, config.init_from, normaliser, data)
    if sae.rescale_acts_by_decoder_norm and not sae.W_dec.any():
        raise UserError(
            "sae.rescale_acts_by_decoder_norm=true: a decoder that starts at 0 has no directions to rescale; set "
            "init.scheme=kaiming, or leave it out"
        )
    set_execution(sae, objective, config, sample)
    return Lane(sae, objective, normaliser)


def _fit(config: RunConfig, layout: Layout, x: Tensor, y: Tensor | None) -> Normaliser:
    mode, centre = config.normalise.mode, config.normalise.centre
    if mode == "layer_norm" and (layout.crosses or len(layout.widths) > 1):
        raise UserError(
            "normalise.mode=layer_norm: takes a row's statistics over all of its sites, and each needs a scale of its "
            "own; use normalise=sqrt_d or rms"
        )
    return Normaliser.fit(x, mode, centre, y=y, widths=layout.widths, widths_out=layout.widths_out)


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

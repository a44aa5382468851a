"""One SAE under training: weights, loss, normalisation and every counter that must survive a restart."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae_lightning.activations import Normaliser
from sae_lightning.core import ActivationBatch, WindowBatch
from sae_lightning.losses import ModelRun, Objective, StepContext, Through
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.training.downstream import Downstream
from sae_lightning.training.figures import StepFigures

# Steps whose figures may wait to be read.
_MOST_WAITING = 1024


class Lane(nn.Module):
    """An SAE with its objective, its normaliser and its counters; a run is one lane, a bank several on one stream.

    Buffers, all in the checkpoint:

    tokens_since_fired [d_sae] int64: training tokens since the feature was last active (in tokens, not batches).
    tokens_seen        [] int64:      training tokens so far.
    fire_counts        [d_sae] int64: activations since the last density histogram, over ``counted_tokens``.
    l0_ring            [window] f32:  mean l0 of the last ``window`` steps (the rolling l0 of the crosscoder notes).
    first_bad_step     [] int64:      step of the first non-finite loss, -1 while all is well.

    The last two are written by ``settle``, from what the steps showed: when somebody asks and before the state is
    saved, never at every step (it waits for the device).

    Policy (when a feature counts as dead, what is logged) is set by callbacks; a lane only keeps the state.
    counts_tokens: whether tokens and the features that fired are counted after each step (DeadFeatures says so).
    ``alive`` is False once a bank has dropped the lane; ``first_bad_step`` says so in a checkpoint.
    """

    tokens_since_fired: Tensor
    tokens_seen: Tensor
    fire_counts: Tensor
    counted_tokens: Tensor
    l0_ring: Tensor
    steps_done: Tensor
    first_bad_step: Tensor

    def __init__(
        self, sae: SparseAutoencoder, objective: Objective, normaliser: Normaliser, *, l0_window: int = 12_000
    ) -> None:
        super().__init__()
        self.sae = sae
        self.objective = objective
        self.normaliser = normaliser
        self.dead_after_tokens = 10_000_000
        self.alive = True
        self.counts_tokens = False
        zero = torch.zeros((), dtype=torch.int64)
        self.register_buffer("tokens_since_fired", torch.zeros(sae.width, dtype=torch.int64))
        self.register_buffer("tokens_seen", zero.clone())
        self.register_buffer("fire_counts", torch.zeros(sae.width, dtype=torch.int64))
        self.register_buffer("counted_tokens", zero.clone())
        self.register_buffer("l0_ring", torch.zeros(l0_window))
        self.register_buffer("steps_done", zero.clone())
        self.register_buffer("first_bad_step", zero.clone() - 1)
        self.figures = StepFigures(objective)
        self.register_state_dict_pre_hook(_settled)

    def dead(self, after_tokens: int | None = None) -> Bool[Tensor, "d_sae"]:
        """Return the features that were active on none of the last ``after_tokens`` training tokens."""
        return self.tokens_since_fired >= (self.dead_after_tokens if after_tokens is None else after_tokens)

    def dead_share(self, after_tokens: int | None = None) -> float:
        """Return which share of all features is dead (one host sync, and a collective where the SAE has been cut)."""
        dead = self.sae.execution.feature_ranks.sum(self.dead(after_tokens).sum())
        return int(dead) / self.sae.d_sae

    def step(
        self,
        batch: ActivationBatch,
        progress: float,
        downstream: Downstream | None = None,
        clean: ModelRun | None = None,
        n_rows: int | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch of raw activations at ``progress`` in [0, 1]; remember what the step showed.

        downstream: splices the reconstruction into the language model, where the objective asks what comes of it;
        clean: what the language model makes of the batch itself. n_rows: rows of the whole batch, where other
        processes have some of them (``execution.row_ranks``); the loss is then that of this process's rows.
        """
        raw = batch
        x = self.normaliser.apply(batch.x)
        y = x if batch.y is batch.x else self.normaliser.apply_output(batch.y, batch.x)
        batch = ActivationBatch(x=x, y=y, token_index=batch.token_index)
        self.sae.set_progress(progress)
        out = self.sae(x)
        through = None
        if downstream is not None and clean is not None and self.objective.reads_model:
            assert isinstance(raw, WindowBatch)
            spliced = downstream.spliced(raw, self.normaliser.undo(out.y_hat, raw.x))
            through = Through(clean, spliced, raw.keep)
        context = StepContext(
            batch=batch,
            out=out,
            sae=self.sae,
            dead=self.dead(),
            progress=progress,
            through=through,
            ranks=self.sae.execution.row_ranks,
            n_rows=n_rows,
        )
        loss, terms = self.objective(context)
        if self.figures.waiting >= _MOST_WAITING:
            self.settle()
        with torch.no_grad():
            self.figures.note(context, loss, terms)
            self.steps_done.add_(1)
        return loss

    @torch.no_grad()
    def settle(self) -> None:
        """Write ``l0_ring`` and ``first_bad_step`` for the steps since the last call (one host sync)."""
        steps = self.figures.read()
        if not steps:
            return
        first, size = int(self.steps_done) - len(steps), len(self.l0_ring)
        recent = list(enumerate((l0 for _, l0 in steps), first))[-size:]
        places = torch.tensor([step % size for step, _ in recent], device=self.l0_ring.device)
        self.l0_ring[places] = self.l0_ring.new_tensor([l0 for _, l0 in recent])
        bad = next((step for step, (loss, _) in enumerate(steps, first) if not math.isfinite(loss)), -1)
        if bad >= 0 and int(self.first_bad_step) < 0:
            self.first_bad_step.fill_(bad)

    def first_bad(self) -> int:
        """Return the step of the first non-finite loss, -1 while all is well (one host sync)."""
        self.settle()
        return int(self.first_bad_step)

    def count(self, n_tokens: int) -> None:
        """Count the features that fired in the last step of ``n_tokens``; called after the optimiser has stepped."""
        counts = self.figures.counts
        assert counts is not None, "count() needs a step before it"
        self.tokens_since_fired.add_(n_tokens).masked_fill_(counts > 0, 0)
        self.fire_counts.add_(counts)
        self.tokens_seen.add_(n_tokens)
        self.counted_tokens.add_(n_tokens)

    @property
    def has_looked(self) -> bool:
        """Whether a step has been made since the lane was built: ``last_fvu_l0`` then has something to tell."""
        return bool(self.figures.last)

    def last_fvu_l0(self) -> tuple[float, float]:
        """Return fvu and l0 of the last batch (one host sync)."""
        return self.figures.last_fvu_l0()

    def lambda_eff(self, batch_size: int, progress: float) -> dict[str, float]:
        """Return each sparsity term's coefficient as it reads in the per-token convention."""
        variance = self.figures.variance()
        found = {
            name: self.objective.lambda_eff(
                name, batch_size, self.sae.d_out, self.sae.d_sae, progress=progress, variance=variance
            )
            for name in self.objective.terms
        }
        return {name: value for name, value in found.items() if value is not None}

    def last_loss(self) -> Tensor:
        """Return the loss of the last batch."""
        return self.figures.last[0]

    def rolling_l0(self) -> float:
        """Return the mean l0 over the last ``window`` steps."""
        self.settle()
        filled = min(int(self.steps_done), len(self.l0_ring))
        return float(self.l0_ring[:filled].mean()) if filled else 0.0

    def take_averages(self) -> dict[str, float]:
        """Return the means of what the steps showed since the last call, and start anew (one host sync)."""
        self.settle()
        return self.figures.averages()

    def take_density(self) -> Tensor | None:
        """Return each feature's share of tokens since the last call (None before the first token), and start anew."""
        tokens = int(self.counted_tokens)
        if not tokens:
            return None
        # Of all features, those of other processes too.
        density = self.sae.execution.feature_ranks.stack(self.fire_counts).flatten().double() / tokens
        self.fire_counts.zero_()
        self.counted_tokens.zero_()
        return density


def _settled(lane: Any, prefix: str, keep_vars: bool) -> None:
    lane.settle()

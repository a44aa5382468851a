"""One SAE under training: weights, loss, normalisation and every counter that must survive a restart."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae_lightning.activations import Normaliser
from sae_lightning.core import ActivationBatch, SAEOutput
from sae_lightning.losses import Objective, StepContext
from sae_lightning.sae import SparseAutoencoder


class Lane(nn.Module):
    """An SAE with its objective, its normaliser and its counters; a run is one lane, a bank several on one stream.

    Buffers, all in the checkpoint:

    tokens_since_fired [d_sae] int64: training tokens since the feature was last active (in tokens, not batches).
    tokens_seen        [] int64:      training tokens so far.
    fire_counts        [d_sae] int64: activations since the last density histogram, over ``counted_tokens``.
    l0_ring            [window] f32:  mean l0 of the last ``window`` steps (the rolling l0 of the crosscoder notes).
    first_bad_step     [] int64:      step of the first non-finite loss, -1 while all is well (no host sync needed).

    Policy (when a feature counts as dead, what is logged) is set by callbacks; a lane only keeps the state.
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
        zero = torch.zeros((), dtype=torch.int64)
        self.register_buffer("tokens_since_fired", torch.zeros(sae.d_sae, dtype=torch.int64))
        self.register_buffer("tokens_seen", zero.clone())
        self.register_buffer("fire_counts", torch.zeros(sae.d_sae, dtype=torch.int64))
        self.register_buffer("counted_tokens", zero.clone())
        self.register_buffer("l0_ring", torch.zeros(l0_window))
        self.register_buffer("steps_done", zero.clone())
        self.register_buffer("first_bad_step", zero.clone() - 1)
        self.grad_norm: Tensor | None = None
        self.bad_terms: dict[str, Tensor] = {}
        self._counts: Tensor | None = None
        self._last: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._summed = 0

    def dead(self, after_tokens: int | None = None) -> Bool[Tensor, "d_sae"]:
        """Return the features that were active on none of the last ``after_tokens`` training tokens."""
        return self.tokens_since_fired >= (self.dead_after_tokens if after_tokens is None else after_tokens)

    def step(self, batch: ActivationBatch, progress: float) -> Float[Tensor, ""]:
        """Return the loss of a batch of raw activations at ``progress`` in [0, 1]; remember what the step showed."""
        x = self.normaliser.apply(batch.x)
        y = x if batch.y is batch.x else self.normaliser.apply_output(batch.y, batch.x)
        batch = ActivationBatch(x=x, y=y, token_index=batch.token_index)
        self.sae.set_progress(progress)
        out = self.sae(x)
        context = StepContext(batch=batch, out=out, sae=self.sae, dead=self.dead(), progress=progress)
        loss, terms = self.objective(context)
        with torch.no_grad():
            self._observe(y, out, loss, terms)
        return loss

    def _observe(self, y: Tensor, out: SAEOutput, loss: Tensor, terms: dict[str, Tensor]) -> None:
        sse = (y - out.y_hat).float().square().sum(-1).mean()
        variance = (y - y.mean(0)).float().square().sum(-1).mean()
        counts = out.features.counts()
        self._counts = counts
        l0 = counts.sum().float() / len(y)
        values = {f"loss/{name}": value.float() for name, value in terms.items()}
        values |= {
            "loss/total": loss.detach().float(),
            "metrics/fvu": sse / variance,
            "metrics/mse": sse / y.shape[-1],
            "sparsity/l0": l0,
            "sparsity/l1": out.features.l1().float().mean(),
            "sparsity/active_per_batch": (counts > 0).float().mean(),
        }
        self._last = values
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._summed += 1
        self.l0_ring[self.steps_done % len(self.l0_ring)] = l0
        bad = ~torch.isfinite(loss.detach())
        self.first_bad_step = torch.where(bad & (self.first_bad_step < 0), self.steps_done, self.first_bad_step)
        self.bad_terms = terms
        self.steps_done += 1

    def count(self, n_tokens: int) -> None:
        """Count the features that fired in the last step; called after the optimiser has stepped."""
        assert self._counts is not None, "count() needs a step before it"
        self.tokens_since_fired = torch.where(self._counts > 0, 0, self.tokens_since_fired + n_tokens)
        self.fire_counts += self._counts
        self.tokens_seen += n_tokens
        self.counted_tokens += n_tokens

    @property
    def has_looked(self) -> bool:
        """Whether a step has been made since the lane was built: ``last_fvu_l0`` then has something to tell."""
        return bool(self._last)

    def last_fvu_l0(self) -> tuple[float, float]:
        """Return fvu and l0 of the last batch (one host sync)."""
        return float(self._last["metrics/fvu"]), float(self._last["sparsity/l0"])

    def lambda_eff(self, batch_size: int, progress: float) -> dict[str, float]:
        """Return each sparsity term's coefficient as it reads in the per-token convention."""
        variance = float(self._last["metrics/mse"] / self._last["metrics/fvu"]) * self.sae.d_out
        found = {
            name: self.objective.lambda_eff(
                name, batch_size, self.sae.d_out, self.sae.d_sae, progress=progress, variance=variance
            )
            for name in self.objective.terms
        }
        return {name: value for name, value in found.items() if value is not None}

    def last_loss(self) -> Tensor:
        """Return the loss of the last batch."""
        return self._last["loss/total"]

    def rolling_l0(self) -> float:
        """Return the mean l0 over the last ``window`` steps."""
        filled = min(int(self.steps_done), len(self.l0_ring))
        return float(self.l0_ring[:filled].mean()) if filled else 0.0

    def take_averages(self) -> dict[str, float]:
        """Return the means of what the steps showed since the last call, and start anew (one host sync)."""
        if not self._summed:
            return {}
        stacked = torch.stack(list(self._sums.values())) / self._summed
        averages = dict(zip(self._sums, stacked.tolist(), strict=True))
        self._sums, self._summed = {}, 0
        return averages

    def take_density(self) -> Tensor | None:
        """Return each feature's share of tokens since the last call (None before the first token), and start anew."""
        tokens = int(self.counted_tokens)
        if not tokens:
            return None
        density = self.fire_counts.double() / tokens
        self.fire_counts.zero_()
        self.counted_tokens.zero_()
        return density

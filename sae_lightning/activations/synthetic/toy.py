"""Toy models of superposition: a small network that packs sparse features into few dimensions is trained, then read."""

from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from sae_lightning.activations.synthetic.directions import one_thread
from sae_lightning.activations.synthetic.firing import Firings, independent
from sae_lightning.activations.synthetic.planted import BLOCK_ROWS, PlantedModel
from sae_lightning.core import UserError, torch_generator
from sae_lightning.core.progress import progress

Probability = Annotated[float, Gt(0), Le(1)]


class ToySuperposition(PlantedModel):
    """``h = W x``, ``x_hat = ReLU(W^T h + b)``, trained on ``sum_i I_i (x_i - x_hat_i)^2``; the rows are h.

    Inputs x [num_features] are 0 with probability ``1 - feature_probability``, else uniform on [0, 1]. Importance
    ``I_i = importance_decay^i``. W [hidden_dim, num_features], hidden_dim < num_features: the network decides which
    features get directions of their own. The true features are those with ``||W_i|| >= least_norm``, with direction
    ``W_i / ||W_i||`` and magnitude ``x_i ||W_i||``; what the network dropped is in the rows (its W_i is small) and in
    no truth. Trained with Adam from Xavier weights, ``steps`` batches of ``batch_size``, the rate falling to 0.

    Source: Elhage et al. 2022, "Toy models of superposition". Raises UserError where hidden_dim leaves nothing to
    superpose, and where training keeps no feature.
    """

    kind = "toy_superposition"

    def __init__(
        self,
        num_features: PositiveInt = 256,
        hidden_dim: PositiveInt = 64,
        feature_probability: Probability = 0.02,
        importance_decay: Probability = 0.995,
        steps: PositiveInt = 2000,
        batch_size: PositiveInt = 512,
        lr: Annotated[float, Gt(0)] = 0.01,
        least_norm: Annotated[float, Gt(0)] = 0.5,
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        if hidden_dim >= num_features:
            raise UserError(
                f"hidden_dim={hidden_dim}: must be below num_features={num_features}, else nothing is in superposition"
            )
        self._parameters = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.p = feature_probability
        self.W, self.b = train_toy(
            num_features, hidden_dim, feature_probability, importance_decay, steps, batch_size, lr, seed
        )
        norms = self.W.norm(dim=0)
        kept = norms >= least_norm
        if not kept.any():
            raise UserError(
                f"least_norm={least_norm}: none of the {num_features} features was given that much; train for more "
                "steps or lower least_norm"
            )
        # Kept features first: the truth is a prefix of the numbering.
        order = torch.cat([kept.nonzero()[:, 0], (~kept).nonzero()[:, 0]])
        self._norms = norms[order].numpy()
        self._all = (self.W / norms.clamp(min=torch.finfo(norms.dtype).tiny)).T[order].contiguous()
        self.directions = self._all[: int(kept.sum())]
        self.bias = torch.zeros(hidden_dim)
        self.firing_probabilities = torch.full((len(self.directions),), feature_probability)

    def parameters(self) -> dict[str, Any]:
        return {"kind": self.kind, **self._parameters}

    @property
    def _vectors(self) -> Tensor:
        return self._all

    def _draw(self, seed: int) -> Firings:
        rng = np.random.default_rng(seed)
        n = len(self._all)
        rows, features = independent(rng, BLOCK_ROWS, np.full(n, self.p))
        values = (1.0 - rng.random(len(rows), dtype=np.float32)) * self._norms[features]
        order = np.argsort(rows * n + features)
        return rows[order], features[order], values[order]


def train_toy(
    n: int, m: int, p: float, decay: float, steps: int, batch_size: int, lr: float, seed: int
) -> tuple[Float[Tensor, "m n"], Float[Tensor, "n"]]:
    """Return W and b of a trained toy model; seeded, the same bits on any number of threads."""
    generator = torch_generator(seed, "synthetic", "toy")
    spread = (2 / (m + n)) ** 0.5
    w = (spread * torch.randn(m, n, generator=generator)).requires_grad_()
    b = torch.zeros(n, requires_grad=True)
    importance = decay ** torch.arange(n, dtype=torch.float32)
    optimizer = torch.optim.Adam([w, b], lr=lr)
    with one_thread(), progress("training the toy model", steps) as advance:
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            there = torch.rand(batch_size, n, generator=generator) < p
            x = torch.where(there, torch.rand(batch_size, n, generator=generator), 0.0)
            x_hat = torch.relu(x @ w.T @ w + b)
            loss = ((x - x_hat).square() * importance).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            advance(1)
    return w.detach(), b.detach()

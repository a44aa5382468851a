"""SynthSAEBench's generator: planted directions, Zipf firing, hierarchy, correlation, magnitudes, bias."""

from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from pydantic import PositiveInt

from sae_lightning.activations.synthetic.directions import draw_bias, draw_directions
from sae_lightning.activations.synthetic.firing import Copula, FiringModel, Firings
from sae_lightning.activations.synthetic.forest import Forest
from sae_lightning.activations.synthetic.planted import BLOCK_ROWS, PlantedModel
from sae_lightning.activations.synthetic.settings import (
    Correlation,
    FiringProbability,
    Hierarchy,
    Magnitude,
    MagnitudeOrNumber,
    Orthogonalization,
    Settings,
)
from sae_lightning.core import UserError, derive_seed


class SyntheticModel(PlantedModel):
    """Feature i fires with its probability (together with others: ``correlation``; under a parent: ``hierarchy``).

    Its magnitude is ``max(0, N(mean_i, std_i^2))``; rows are sums of magnitude times direction, plus the bias.
    Settings are named and mean what they do in SynthSAEBench (Chanin, Garriga-Alonso 2026); draws are our own.

    num_features, hidden_dim: true features, and width of a row.
    firing_probability, hierarchy, orthogonalization, correlation: see the classes of ``synthetic.settings``.
    std_firing_magnitudes, mean_firing_magnitudes: one number, or a distribution over features.
    bias: false, true (norm 1) or its norm.
    seed: of all that is fixed: directions, bias, tree, correlations, per-feature magnitudes.
    Raises UserError where a magnitude that children are scaled by is 0.
    """

    kind = "synthetic"

    def __init__(
        self,
        num_features: PositiveInt,
        hidden_dim: PositiveInt,
        firing_probability: FiringProbability | None = None,
        hierarchy: Hierarchy | None = None,
        orthogonalization: Orthogonalization | None = None,
        correlation: Correlation | None = None,
        std_firing_magnitudes: MagnitudeOrNumber = 0.0,
        mean_firing_magnitudes: MagnitudeOrNumber = 1.0,
        bias: bool | Annotated[float, Ge(0)] = 1.0,
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        firing = FiringProbability() if firing_probability is None else firing_probability
        std_magnitude = Magnitude.model_validate(std_firing_magnitudes)
        mean_magnitude = Magnitude.model_validate(mean_firing_magnitudes)
        self._parameters = {
            "num_features": num_features,
            "hidden_dim": hidden_dim,
            "firing_probability": firing,
            "hierarchy": hierarchy,
            "orthogonalization": orthogonalization,
            "correlation": correlation,
            "std_firing_magnitudes": std_magnitude,
            "mean_firing_magnitudes": mean_magnitude,
            "bias": bias,
            "seed": seed,
        }
        n = num_features
        forest = Forest.grow(n, hierarchy, _rng(seed, "hierarchy"))
        p = firing.draw(n, _rng(seed, "firing_probability"))
        if hierarchy is not None and hierarchy.compensate_probabilities:
            p = forest.compensated(p)
        mean = mean_magnitude.draw(n, _rng(seed, "mean_firing_magnitudes")).astype(np.float32)
        std = std_magnitude.draw(n, _rng(seed, "std_firing_magnitudes")).astype(np.float32)
        scale = hierarchy is not None and hierarchy.scale_children_by_parent
        if scale and not mean[forest.count > 0].all():
            raise UserError(
                "mean_firing_magnitudes: is 0 for a feature whose children are scaled by it; make it positive, or set "
                "hierarchy.scale_children_by_parent=false"
            )
        copula = None if correlation is None else Copula(p, correlation, seed)
        self._firing = FiringModel(p, mean, std, forest, scale, copula)
        self.forest = forest
        self.directions = draw_directions(n, hidden_dim, seed, orthogonalization)
        self.bias = draw_bias(hidden_dim, seed, bias)
        self.firing_probabilities = torch.from_numpy(p).float()

    def parameters(self) -> dict[str, Any]:
        plain = {k: v.model_dump(mode="json") if isinstance(v, Settings) else v for k, v in self._parameters.items()}
        return {"kind": self.kind, **plain}

    def _draw(self, seed: int) -> Firings:
        return self._firing.draw(seed, BLOCK_ROWS)


def _rng(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, "synthetic", name))

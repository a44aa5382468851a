"""Activations of two models with a known answer: features that both have, and features that one of them has alone."""

from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float, Int
from pydantic import NonNegativeInt
from torch import Tensor
from torch.nn import functional

from sae_lightning.activations.synthetic.directions import draw_bias
from sae_lightning.activations.synthetic.firing import FiringModel, Firings
from sae_lightning.activations.synthetic.forest import Forest
from sae_lightning.activations.synthetic.planted import BLOCK_ROWS, PlantedModel
from sae_lightning.activations.synthetic.settings import FiringProbability, Magnitude, MagnitudeOrNumber, Settings
from sae_lightning.core import UserError, derive_seed, torch_generator

Positive = Annotated[float, Gt(0)]
#: Where a planted feature is: in both models, in the base alone, in the tuned one alone.
SHARED, BASE_ONLY, TUNED_ONLY = 0, 1, 2
#: Sites as ``sites=diff`` names them: the model, then the place in it.
SITES = ("base/rows", "tuned/rows")


class TwoModels(PlantedModel):
    """Rows ``[sum_i a_i s_i^A u_i^A + bias^A,  c (sum_i a_i s_i^B u_i^B + bias^B)]``: A the base, B the tuned model.

    Feature i fires with its probability, independently, with magnitude ``a_i = max(0, N(mean_i, std_i^2))`` in both
    models at once. u^A, u^B [width] are unit directions, s^A, s^B >= 0 strengths, of which the larger is 1:

    - ``shared`` features have both: ``cos(u^A, u^B) = cosine``, and the smaller strength is uniform on
      [least_strength, 1], in either model with the same chance;
    - ``base_only`` features have ``s^B = 0``, ``tuned_only`` features ``s^A = 0``.

    Which of the numbers 0 .. n - 1 is of which kind is drawn (``kind_of`` [n]: SHARED, BASE_ONLY, TUNED_ONLY), so how
    often a feature fires says nothing of its kind. The two sites lie side by side, as in a crosscoder;
    ``directions`` [n, 2 width] are the whole features at unit length, and magnitudes are multiplied by what they had.

    width: of one model's site. tuned_scale: c, how much larger the tuned model's activations are: a crosscoder has to
    scale each site on its own. bias: of each site, false, true (norm 1) or its norm. seed: of all that is fixed.
    cosine: 1 where both models have the same direction (a tuned copy of the base), 0 where they have nothing to do with
    each other; latent scaling reads one model's directions in the other and needs it well above 0.

    Raises UserError where there is no feature.
    """

    kind = "two_models"
    kind_of: Int[Tensor, "n"]

    def __init__(
        self,
        shared: NonNegativeInt = 256,
        base_only: NonNegativeInt = 64,
        tuned_only: NonNegativeInt = 64,
        width: Annotated[int, Ge(2)] = 128,
        firing_probability: FiringProbability | None = None,
        std_firing_magnitudes: MagnitudeOrNumber = 0.0,
        mean_firing_magnitudes: MagnitudeOrNumber = 1.0,
        least_strength: Annotated[float, Gt(0), Le(1)] = 0.3,
        cosine: Annotated[float, Ge(0), Le(1)] = 0.95,
        tuned_scale: Positive = 1.0,
        bias: bool | Annotated[float, Ge(0)] = 1.0,
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        n = shared + base_only + tuned_only
        if n == 0:
            raise UserError("shared=0, base_only=0, tuned_only=0: there is no feature; make one of them positive")
        firing = FiringProbability() if firing_probability is None else firing_probability
        std_magnitude = Magnitude.model_validate(std_firing_magnitudes)
        mean_magnitude = Magnitude.model_validate(mean_firing_magnitudes)
        self._parameters = {
            "shared": shared,
            "base_only": base_only,
            "tuned_only": tuned_only,
            "width": width,
            "firing_probability": firing,
            "std_firing_magnitudes": std_magnitude,
            "mean_firing_magnitudes": mean_magnitude,
            "least_strength": least_strength,
            "cosine": cosine,
            "tuned_scale": tuned_scale,
            "bias": bias,
            "seed": seed,
        }
        generator = torch_generator(seed, "synthetic", "two_models")
        kinds = torch.tensor([SHARED] * shared + [BASE_ONLY] * base_only + [TUNED_ONLY] * tuned_only)
        self.kind_of = kinds[torch.randperm(n, generator=generator)]
        strengths = _strengths(self.kind_of, least_strength, generator)
        base = functional.normalize(torch.randn(n, width, generator=generator), dim=1)
        tuned = _turned(base, cosine, generator)
        whole = torch.cat([strengths[:, :1] * base, tuned_scale * strengths[:, 1:] * tuned], dim=1)
        lengths = whole.norm(dim=1)
        self.directions = whole / lengths[:, None]
        self.bias = torch.cat([draw_bias(width, seed, bias), tuned_scale * draw_bias(width, seed + 1, bias)])
        self.site_widths = dict.fromkeys(SITES, width)
        p = firing.draw(n, _rng(seed, "firing_probability"))
        mean = mean_magnitude.draw(n, _rng(seed, "mean_firing_magnitudes")) * lengths.numpy()
        std = std_magnitude.draw(n, _rng(seed, "std_firing_magnitudes")) * lengths.numpy()
        alone = Forest.grow(n, None, _rng(seed, "hierarchy"))
        self._firing = FiringModel(p, mean.astype(np.float32), std.astype(np.float32), alone)
        self.firing_probabilities = torch.from_numpy(p).float()

    def parameters(self) -> dict[str, Any]:
        plain = {k: v.model_dump(mode="json") if isinstance(v, Settings) else v for k, v in self._parameters.items()}
        return {"kind": self.kind, **plain}

    def _draw(self, seed: int) -> Firings:
        return self._firing.draw(seed, BLOCK_ROWS)


def _strengths(kinds: Int[Tensor, "n"], least: float, generator: torch.Generator) -> Float[Tensor, "n 2"]:
    """Return how strong each feature is in either model."""
    smaller = least + (1 - least) * torch.rand(len(kinds), generator=generator)
    weaker = torch.randint(2, (len(kinds),), generator=generator)
    out = torch.ones(len(kinds), 2)
    out[torch.arange(len(kinds)), weaker] = smaller
    out[kinds == BASE_ONLY] = torch.tensor([1.0, 0.0])
    out[kinds == TUNED_ONLY] = torch.tensor([0.0, 1.0])
    return out


def _turned(unit: Float[Tensor, "n d"], cosine: float, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Return unit directions at this cosine to the given ones, turned towards random sides."""
    aside = torch.randn(unit.shape, generator=generator)
    aside = functional.normalize(aside - (aside * unit).sum(1, keepdim=True) * unit, dim=1)
    return cosine * unit + (1 - cosine**2) ** 0.5 * aside


def _rng(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, "synthetic", name))

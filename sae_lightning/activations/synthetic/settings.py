"""What a synthetic model is made of: names and meaning as in SynthSAEBench (``sae_lens.synthetic``)."""

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, GetPydanticSchema, model_validator

Share = Annotated[float, Ge(0), Le(1)]
Probability = Annotated[float, Gt(0), Le(1)]
Positive = Annotated[float, Gt(0)]


class Settings(BaseModel):
    """A group of settings: unknown keys, and values that are not finite, are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FiringProbability(Settings):
    """How often feature i of n fires.

    zipfian:  ``p_i = min_prob + (max_prob - min_prob) (r^-a - n^-a) / (1 - n^-a)``, rank r = i + 1, a the ``exponent``.
    linear:   from ``max_prob`` (first feature) to ``min_prob`` (last).
    random:   uniform between ``min_prob`` and ``max_prob``.
    constant: ``probability``.

    A type reads its own keys and leaves the others alone.
    """

    type: Literal["zipfian", "linear", "random", "constant"] = "zipfian"
    exponent: Positive = 1.0
    max_prob: Probability = 0.3
    min_prob: Probability = 0.01
    probability: Probability = 0.1

    @model_validator(mode="after")
    def _ordered(self) -> "FiringProbability":
        if self.type != "constant" and self.min_prob > self.max_prob:
            raise ValueError(f"min_prob={self.min_prob}: must be at most max_prob={self.max_prob}; lower it")
        return self

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return the probabilities [n]."""
        if self.type == "constant":
            return np.full(n, self.probability)
        if self.type == "random":
            return rng.uniform(self.min_prob, self.max_prob, n)
        if n == 1:
            return np.array([self.max_prob])
        if self.type == "linear":
            return np.linspace(self.max_prob, self.min_prob, n)
        power = np.arange(1, n + 1, dtype=np.float64) ** -self.exponent
        return self.min_prob + (self.max_prob - self.min_prob) * (power - power[-1]) / (1 - power[-1])


class Magnitude(Settings):
    """A positive number a feature: a mean or standard deviation of its magnitude. A plain number c is constant c.

    constant: ``value``. linear: ``start + (end - start) t``, t from 0 (first feature) to 1 (last). exponential:
    ``start (end / start)^t``. folded_normal: ``|N(mean, std^2)|`` cut to [min_value, max_value].

    A type reads its own keys and leaves the others alone.
    """

    type: Literal["constant", "linear", "exponential", "folded_normal"] = "constant"
    value: Annotated[float, Ge(0)] = 1.0
    start: Positive = 1.0
    end: Positive = 1.0
    mean: float = 0.0
    std: Positive = 0.1
    min_value: Annotated[float, Ge(0)] | None = None
    max_value: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _number(cls, given: Any) -> Any:
        return {"value": given} if isinstance(given, int | float) else given

    @model_validator(mode="after")
    def _ordered(self) -> "Magnitude":
        if self.min_value is not None and self.max_value is not None and self.min_value > self.max_value:
            raise ValueError(f"min_value={self.min_value}: must be at most max_value={self.max_value}; lower it")
        return self

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return the values [n]."""
        t = np.linspace(0, 1, n)
        match self.type:
            case "constant":
                return np.full(n, self.value)
            case "linear":
                return self.start + (self.end - self.start) * t
            case "exponential":
                return self.start * (self.end / self.start) ** t
            case "folded_normal":
                return np.clip(np.abs(self.mean + self.std * rng.standard_normal(n)), self.min_value, self.max_value)


#: A number may stand for ``Magnitude``; what it may not be is said of ``Magnitude`` alone.
MagnitudeOrNumber = Annotated[
    Magnitude | float, GetPydanticSchema(lambda _source, handler: handler.generate_schema(Magnitude))
]


class Hierarchy(Settings):
    """A forest of features: a child fires only where its parent does.

    The first ``total_root_nodes`` features are roots; children are numbered level by level, parent by parent, until
    ``max_depth`` levels lie below the roots or the features are used up; what is left over stands alone.

    branching_factor: children of each parent, or (least, most).
    mutually_exclusive_portion: share of the parents (of ``mutually_exclusive_min_depth`` to ``.._max_depth``, roots
        being depth 0, with two children or more) of whose children at most one fires.
    compensate_probabilities: raise the children's probabilities so that each fires about as often as
        ``firing_probability`` says, parents and exclusion notwithstanding.
    scale_children_by_parent: multiply a child's magnitude by its parent's over the parent's mean.
    """

    total_root_nodes: Annotated[int, Ge(1)] = 100
    branching_factor: Annotated[int, Ge(2)] | tuple[Annotated[int, Ge(2)], Annotated[int, Ge(2)]] = 100
    max_depth: Annotated[int, Ge(1)] = 2
    mutually_exclusive_portion: Share = 0.0
    mutually_exclusive_min_depth: Annotated[int, Ge(0)] = 0
    mutually_exclusive_max_depth: Annotated[int, Ge(0)] | None = None
    compensate_probabilities: bool = False
    scale_children_by_parent: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Hierarchy":
        if isinstance(self.branching_factor, tuple) and self.branching_factor[0] > self.branching_factor[1]:
            raise ValueError(f"branching_factor={list(self.branching_factor)}: is (least, most); swap the two")
        most = self.mutually_exclusive_max_depth
        if most is not None and most < self.mutually_exclusive_min_depth:
            raise ValueError(
                f"mutually_exclusive_max_depth={most}: must be at least mutually_exclusive_min_depth="
                f"{self.mutually_exclusive_min_depth}; raise it"
            )
        return self


class Orthogonalization(Settings):
    """Adam on ``sum_{i != j} (d_i . d_j)^2 + n sum_i (||d_i||^2 - 1)^2``, then unit length again.

    chunk_size: taken so that SynthSAEBench's settings can be given as they are; the gradient is computed from the
    d x d second moment, which needs no chunks, so it changes nothing.
    """

    num_steps: Annotated[int, Ge(1)] = 200
    lr: Positive = 0.01
    chunk_size: Annotated[int, Ge(1)] = 1024


class Correlation(Settings):
    """A Gaussian copula: feature i fires where ``g_i > t_i``, ``g = A e + sqrt(diag) u``, e [rank], u standard normal.

    A [n, rank] has entries N(0, correlation_scale^2), rows of squared length above 0.99 shortened to it, and diag
    makes var(g_i) = 1. seed: of A; None: the model's.
    """

    rank: Annotated[int, Ge(1)] = 32
    correlation_scale: Annotated[float, Ge(0)] = 0.1
    seed: Annotated[int, Ge(0)] | None = None

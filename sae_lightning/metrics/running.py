"""What every running metric has: float64 state that adds up over batches, merges across processes, and is resampled."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


class RunningMetric(ABC):
    """A metric over all tokens seen, in whatever batches they came: sums, and a formula of sums.

    ``update(...)`` takes a batch, ``compute()`` returns named values, ``merge(other)`` adds another instance's tokens
    to this one: updating one metric with all the data and merging metrics of its parts agree to rounding of float64.
    ``state()`` is what another process needs for that, tensors only. A value without data is NaN.

    The formula is written for many sets of sums at once, so that a bootstrap needs no second one: ``pool`` makes the
    sums of W parts under B sets of weights, ``values`` the figures of each set.
    """

    _fields: tuple[str, ...]

    @abstractmethod
    def values(self, sums: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        """Return the figures, float64, of B sets of sums: each field is [B, ...]."""

    @abstractmethod
    def pool(self, states: Mapping[str, Tensor], weights: Float[Tensor, "B W"]) -> dict[str, Tensor]:
        """Return the sums [B, ...] of W parts, part w ``weights[b, w]`` times in set b; states: [W, ...]."""

    @abstractmethod
    def merge(self, other: "RunningMetric") -> None:
        """Take in what ``other``, of the same kind, has seen."""

    def compute(self) -> dict[str, float]:
        """Return the values over everything seen so far."""
        sums = {name: value[None] for name, value in self.state().items()}
        return {name: float(value[0]) for name, value in self.values(sums).items()}

    def state(self) -> dict[str, Tensor]:
        """Return copies of the sums."""
        return {name: getattr(self, name).clone() for name in self._fields}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from sums that ``state()`` returned."""
        for name in self._fields:
            setattr(self, name, state[name].clone())


class SumMetric(RunningMetric):
    """A running metric whose state is nothing but sums, so merging adds them."""

    def merge(self, other: RunningMetric) -> None:
        assert type(other) is type(self), f"{type(other).__name__} into {type(self).__name__}"
        for name in self._fields:
            mine: Tensor = getattr(self, name)
            theirs: Tensor = getattr(other, name)
            setattr(self, name, mine + theirs.to(mine.device))

    def pool(self, states: Mapping[str, Tensor], weights: Float[Tensor, "B W"]) -> dict[str, Tensor]:
        return {name: weighted(states[name], weights) for name in self._fields}


def weighted(parts: Tensor, weights: Float[Tensor, "B W"]) -> Tensor:
    """Return ``sum_w weights[b, w] parts[w]``, float64: [W, ...] -> [B, ...]."""
    return (weights @ parts.reshape(len(parts), -1).to(weights)).reshape(len(weights), *parts.shape[1:])


def ratio(numerator: Tensor, denominator: Tensor) -> Float[Tensor, "B"]:
    """Return the quotient in float64; NaN where there is nothing to divide by."""
    below = denominator.double()
    return torch.where(below != 0, numerator.double() / torch.where(below != 0, below, 1.0), torch.nan)

"""What every running metric has: float64 state that adds up over batches and merges across processes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor


class RunningMetric(ABC):
    """A metric over all tokens seen, in whatever batches they came.

    ``update(...)`` takes a batch, ``compute()`` returns named values, ``merge(other)`` adds another instance's tokens
    to this one: updating one metric with all the data and merging metrics of its parts agree to rounding of float64.
    ``state()`` is what another process needs for that, tensors only. A value without data is NaN.
    """

    _fields: tuple[str, ...]

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Return the values over everything seen so far."""

    @abstractmethod
    def merge(self, other: "RunningMetric") -> None:
        """Take in what ``other``, of the same kind, has seen."""

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


def ratio(numerator: Tensor, denominator: Tensor) -> float:
    """Return the quotient of two scalar sums; NaN where there is nothing to divide by."""
    below = float(denominator)
    return float(numerator) / below if below != 0 else float("nan")

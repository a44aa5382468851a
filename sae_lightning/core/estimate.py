"""A number that says how sure it is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval, and how many tokens (or texts, or features: see who made it) it is over.

    ``None``: not defined (nothing to divide by), or an interval that so few windows do not give.
    """

    value: float | None
    low: float | None
    high: float | None
    tokens: int

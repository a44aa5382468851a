"""From Hydra's sweep syntax to what Optuna samples, and back to the overrides of one run.

Imports optuna; import it inside functions.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from sae_lightning.core import UserError, nearest

TAGS = ("log", "int")


@dataclass(frozen=True)
class SearchSpace:
    """What is searched and what stays the same in every run.

    distributions: key -> Optuna distribution. A choice samples the *text* of its elements, so that lists, null and
        group options pass through as they were written.
    fixed: the other overrides, as given.
    """

    distributions: dict[str, BaseDistribution]
    fixed: list[str]

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides of a run with these values."""
        return [*self.fixed, *self.sampled(values)]

    def sampled(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides that differ between the runs."""
        return [f"{key}={_text(values[key])}" for key in self.distributions]

    def fingerprint(self) -> dict[str, str]:
        """Return key -> distribution as JSON text: two sweeps search the same space when these are equal."""
        return {key: distribution_to_json(distribution) for key, distribution in self.distributions.items()}

    def first(self) -> dict[str, Any]:
        """Return one point of the space: the first choices and the low ends."""
        return {
            key: d.choices[0] if isinstance(d, CategoricalDistribution) else d.low  # pyright: ignore[reportAttributeAccessIssue]
            for key, d in self.distributions.items()
        }

    def grid(self) -> list[dict[str, Any]]:
        """Return every point in the order of the command line, the last key fastest. Raises UserError: an interval."""
        axes = [_values(key, distribution) for key, distribution in self.distributions.items()]
        return [dict(zip(self.distributions, point, strict=True)) for point in itertools.product(*axes)]


def read_space(overrides: Iterable[Override]) -> SearchSpace:
    """Split parsed overrides into the search space and the fixed ones; a key given twice counts as given last.

    Raises UserError: an empty choice or range, an interval whose ends are no interval, a tag that does not fit.
    """
    distributions: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in overrides:
        key = override.get_key_element()
        distributions.pop(key, None)
        fixed.pop(key, None)
        if override.is_sweep_override():
            distributions[key] = _distribution(key, override)
        else:
            equals = "" if override.is_delete() and override.value() is None else "="
            fixed[key] = f"{key}{equals}{override.get_value_element_as_str() if equals else ''}"
    if not distributions:
        raise UserError(
            "sweep=optuna: there is nothing to search; give a key several values, "
            "as in 'sae.k=choice(16,32)' or 'optimizer.lr=tag(log, interval(1e-4,1e-2))'"
        )
    return SearchSpace(distributions, list(fixed.values()))


def _distribution(key: str, override: Override) -> BaseDistribution:
    value, shown = override.value(), override.input_line or key
    tags: set[str] = set(getattr(value, "tags", ()))
    for tag in tags:
        if tag not in TAGS:
            raise UserError(f"{shown}: unknown tag {tag!r}{nearest(tag, TAGS)}; the tags are {', '.join(TAGS)}")
    if isinstance(value, IntervalSweep):
        return _interval(shown, value, tags)
    if tags:
        raise UserError(f"{shown}: a tag needs an interval; write tag(log, interval(low,high)) or leave it out")
    if isinstance(value, RangeSweep):
        return _range(shown, value)
    choices = list(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise UserError(f"{shown}: an empty grid; give it at least one value")
    return CategoricalDistribution(choices)


def _interval(shown: str, value: IntervalSweep, tags: set[str]) -> BaseDistribution:
    low, high = value.start, value.end
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{shown}: the ends must be finite numbers; write interval(low,high)")
    if low >= high:
        raise UserError(f"{shown}: low={low:g} must be below high={high:g}; write interval(low,high)")
    if "log" in tags and low <= 0:
        raise UserError(f"{shown}: a logarithmic scale has no {low:g}; raise the low end above 0")
    if "int" in tags or (isinstance(low, int) and isinstance(high, int)):
        ends = math.ceil(low), math.floor(high)
        if ends[0] > ends[1]:
            raise UserError(f"{shown}: there is no whole number in it; widen the interval")
        return IntDistribution(*ends, log="log" in tags)
    return FloatDistribution(low, high, log="log" in tags)


def _range(shown: str, value: RangeSweep) -> BaseDistribution:
    if not value.step:
        raise UserError(f"{shown}: step must not be 0; write range(start,stop,step=...)")
    if value.start is None or value.stop is None or (value.stop - value.start) * value.step <= 0:
        raise UserError(f"{shown}: an empty grid (the stop itself is not in a range); give it at least one value")
    values = sorted(value.range())
    low, high, step = values[0], values[-1], abs(value.step)
    if isinstance(low, int) and isinstance(high, int) and isinstance(step, int):
        return IntDistribution(low, high, step=step)
    return FloatDistribution(float(low), float(high), step=float(step))


def _values(key: str, distribution: BaseDistribution) -> Sequence[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution) and not distribution.log:
        return range(distribution.low, distribution.high + 1, distribution.step)
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        n = round((distribution.high - distribution.low) / distribution.step)
        return [distribution.low + i * distribution.step for i in range(n + 1)]
    raise UserError(
        f"{key}: an interval has no grid; give choice(...) or range(...), or use hydra.sweeper.sampler=random"
    )


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)

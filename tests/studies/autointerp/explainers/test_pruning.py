"""Patterns of stretches against the same three steps written out token by token."""

import numpy as np

from sae_lightning.studies.autointerp.explainers.patterns import WILD
from sae_lightning.studies.autointerp.explainers.pruning import Suffix, importance, shortest, with_wildcards

V = 12


class Windowed:
    """A unit that adds up a number for each of the last four tokens, and fires where the sum is above 1."""

    def __init__(self, seed: int) -> None:
        self.weights = np.random.default_rng(seed).normal(size=(4, V))

    def __call__(self, texts):
        return [np.array([self.at(ids, t) for t in range(len(ids))], np.float32) for ids in texts]

    def at(self, ids, t: int) -> float:
        weight = [1.5, 0.9, 0.9, 0.9]
        return max(0.0, sum(weight[k] * self.weights[k, ids[t - k]] for k in range(min(4, t + 1))) - 1.0)


def naive(unit: Windowed, ids: np.ndarray, activation: float, others: np.ndarray) -> tuple[int, ...] | None:
    """Return the pattern of a text up to its last token, half of the activation kept; None where there is none."""
    suffix, alone = None, 0.0
    for n in range(len(ids), 0, -1):
        if (found := unit.at(ids[-n:], n - 1)) >= 0.5 * activation:
            suffix, alone = ids[-n:], found
    if suffix is None:
        return None
    end = len(suffix) - 1

    def left(places: list[int], first: int) -> float:
        changed = suffix.copy()
        for i, place in enumerate(places):
            changed[place] = others[(first + i) % len(others)]
        return min(1.0, unit.at(changed, end) / alone)

    values = [1 - np.mean([left([j], k) for k in range(len(others))]) for j in range(end + 1)]
    order = sorted(range(end + 1), key=lambda j: (-values[j], j))
    literal = sum(value >= 0.5 for value in values)
    while np.mean([left(order[literal:], k) for k in range(len(others))]) < 0.5:
        literal += 1
    wild = set(order[literal:])
    first = min((j for j in range(end + 1) if j not in wild), default=end)
    return tuple(WILD if j in wild else int(suffix[j]) for j in range(first, end + 1))


def test_patterns_are_those_of_the_steps_one_by_one() -> None:
    rng = np.random.default_rng(0)
    seen = {"pattern": 0, "wild": 0, "none": 0}
    for seed in range(40):
        unit, others = Windowed(seed), rng.permutation(V)[:4]
        texts = [rng.integers(0, V, 8) for _ in range(60)]
        fires = [(ids, unit.at(ids, 7) * rng.uniform(0.8, 2.2)) for ids in texts if unit.at(ids, 7) > 0][:16]
        suffixes = [Suffix(ids, tuple(map(str, ids)), float(value)) for ids, value in fires]
        found = shortest(unit, suffixes, 0.5)
        short = [one for one in found if one is not None]
        patterns = iter(with_wildcards(unit, short, importance(unit, short, others), others, 0.5, 0.5) if short else ())
        for one, (ids, value) in zip(found, fires, strict=True):
            mine = None if one is None else next(patterns).token_ids
            assert mine == naive(unit, ids, value, others)
            seen["none" if mine is None else "wild" if WILD in mine else "pattern"] += 1
    assert min(seen.values()) > 20, seen

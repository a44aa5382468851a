"""Record, explain, score: how well units can be said in words, beside neurons and beside explanations of others."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core import Estimate, derive_seed
from sae_lightning.studies.autointerp.explanations import Explanation
from sae_lightning.studies.autointerp.parts import Explainer, Scorer, Scores, Trial
from sae_lightning.studies.autointerp.records import Record, Unit
from sae_lightning.studies.over_features import difference_estimate, mean_estimate
from sae_lightning.studies.shares import share_interval
from sae_lightning.studies.study import Cell, Result, Table

NAME = "interpretation"
GROUPS = ("features", "neurons", "features_shuffled", "neurons_shuffled")
LEVELS = ("scorer", "group", "level", "right", "measure", "mean", "low", "high", "units")


@dataclass(frozen=True)
class Interpreted:
    """A unit, what it is said to mean, and how well that holds.

    scores, shuffled: by scorer, of its own explanation and of ``stranger``'s in its place; None where there is none.
    """

    record: Record
    explanation: Explanation | None
    scores: Mapping[str, Scores | None]
    stranger: Unit | None
    shuffled: Mapping[str, Scores | None]

    @property
    def unit(self) -> Unit:
        return self.record.unit


@dataclass(frozen=True)
class Interpretation:
    """All units, and the figures over them."""

    units: tuple[Interpreted, ...]
    result: Result


def interpret(
    records: Iterable[Record],
    explainer: Explainer,
    scorers: Sequence[Scorer],
    *,
    seed: int = 0,
    draws: int = 1000,
) -> Interpretation:
    """Explain every record's unit and score the explanation, its own and, as the baseline, another unit's.

    The baseline deals explanations out anew among units of the same kind that have one, so that none keeps its own:
    what a judge gives to any explanation whatever. Figures are means over units and count units; their intervals are a
    bootstrap over units, which takes the spread of the stretches within each along:

    - ``SCORER_VALUE/GROUP`` of ``features``, ``neurons``, ``features_shuffled``, ``neurons_shuffled``;
    - ``SCORER_VALUE/features-shuffled`` and ``neurons-shuffled``: own less another's, unit by unit;
    - ``SCORER_VALUE/features-neurons``: the difference of two groups drawn independently;
    - ``EXPLAINER_VALUE/GROUP``: likewise of what an explainer found itself, which has no baseline;
    - ``SCORER_usable/GROUP``: share of a unit's answers that could be used; what could not counts nowhere else;
    - ``explained/features`` and ``explained/neurons``: share of units with an explanation.

    Table ``levels``: means over units by the level of the stretch, of what judges said and of what they expected;
    right: what the right answer was, where there is one.
    """
    kept = list(records)
    explanations = explainer.explain(kept)
    strangers = deranged([one.unit if said else None for one, said in zip(kept, explanations, strict=True)], seed)
    dealt = [None if other is None else explanations[other] for other in strangers]
    own: dict[str, list[Scores | None]] = {}
    others: dict[str, list[Scores | None]] = {}
    for scorer in scorers:
        own[scorer.name] = scorer.score(kept, explanations)
        others[scorer.name] = scorer.score(kept, dealt, explanations)
    units = tuple(
        Interpreted(
            record,
            explanations[i],
            {name: scores[i] for name, scores in own.items()},
            None if (other := strangers[i]) is None else kept[other].unit,
            {name: scores[i] for name, scores in others.items()},
        )
        for i, record in enumerate(kept)
    )
    return Interpretation(units, _result(units, explainer.name, [scorer.name for scorer in scorers], seed, draws))


def deranged(units: Sequence[Unit | None], seed: int) -> list[int | None]:
    """Return for each unit the place of another of its kind, every place once; None for None and where it is alone."""
    out: list[int | None] = [None] * len(units)
    for kind in ("feature", "neuron"):
        places = [i for i, unit in enumerate(units) if unit is not None and unit.kind == kind]
        if len(places) > 1:
            rng = np.random.default_rng(derive_seed(seed, "autointerp", "shuffled", kind))
            ring = rng.permutation(places).tolist()  # each takes its neighbour's: none its own
            for place, other in zip(ring, [*ring[1:], ring[0]], strict=True):
                out[place] = other
    return out


def _result(units: Sequence[Interpreted], explainer: str, scorers: Sequence[str], seed: int, draws: int) -> Result:
    estimates: dict[str, Estimate] = {}
    for kind in ("feature", "neuron"):
        mine = [unit for unit in units if unit.unit.kind == kind]
        if mine:
            k = sum(unit.explanation is not None for unit in mine)
            estimates[f"explained/{kind}s"] = Estimate(k / len(mine), *share_interval(k, len(mine)), len(mine))
    for name in _value_names(units, scorers):
        estimates |= _of_value(units, name, f"{name[0] or explainer}_{name[1]}", seed, draws)
    for scorer in scorers:
        for group in GROUPS:
            shares = [s.usable / len(s.trials) for _, s in _scores(units, group, scorer) if s.trials]
            if shares:
                estimates[f"{scorer}_usable/{group}"] = mean_estimate(np.asarray(shares), NAME, seed, draws)
    rows = [row for scorer in scorers for group in GROUPS for row in _levels(units, scorer, group, seed, draws)]
    tables = {"levels": Table(LEVELS, tuple(rows), "Answers by the level of the stretch, -1 silent")} if rows else {}
    return Result(estimates, tables)


def _value_names(units: Sequence[Interpreted], scorers: Sequence[str]) -> list[tuple[str, str]]:
    """Return (scorer, value) of everything that was scored, "" for what an explainer found itself, in order."""
    own = [("", key) for unit in units if unit.explanation for key in unit.explanation.scores]
    scored = [
        (scorer, key)
        for scorer in scorers
        for group in GROUPS
        for _, scores in _scores(units, group, scorer)
        for key in scores.values
    ]
    return list(dict.fromkeys([*own, *scored]))


def _of_value(
    units: Sequence[Interpreted], name: tuple[str, str], title: str, seed: int, draws: int
) -> dict[str, Estimate]:
    found = {group: _values(units, group, name) for group in GROUPS}
    out = {
        f"{title}/{group}": mean_estimate(_array(values.values()), NAME, seed, draws)
        for group, values in found.items()
        if values
    }
    if found["features"] and found["neurons"]:
        a, b = (_array(found[kind].values()) for kind in ("features", "neurons"))
        out[f"{title}/features-neurons"] = difference_estimate(a, b, NAME, seed, draws)
    for kind in ("features", "neurons"):
        other = found[f"{kind}_shuffled"]
        pairs = [value - other[unit] for unit, value in found[kind].items() if unit in other]
        if pairs:
            out[f"{title}/{kind}-shuffled"] = mean_estimate(_array(pairs), NAME, seed, draws)
    return out


def _values(units: Sequence[Interpreted], group: str, name: tuple[str, str]) -> dict[Unit, float]:
    """Return one value of each unit of a group that has it."""
    scorer, key = name
    if not scorer:
        said = [(u.unit, u.explanation.scores) for u in units if u.explanation and f"{u.unit.kind}s" == group]
    else:
        said = [(unit.unit, scores.values) for unit, scores in _scores(units, group, scorer)]
    return {unit: float(values[key]) for unit, values in said if key in values and np.isfinite(values[key])}


def _scores(units: Sequence[Interpreted], group: str, scorer: str) -> list[tuple[Interpreted, Scores]]:
    kind, _, shuffled = group.partition("_")
    found = [(unit, (unit.shuffled if shuffled else unit.scores).get(scorer)) for unit in units]
    return [(unit, scores) for unit, scores in found if scores is not None and f"{unit.unit.kind}s" == kind]


def _levels(units: Sequence[Interpreted], scorer: str, group: str, seed: int, draws: int) -> list[tuple[Cell, ...]]:
    measures: dict[str, Callable[[Trial], float | None]] = {"said": lambda t: t.said, "expected": lambda t: t.expected}
    rows: list[tuple[Cell, ...]] = []
    of_units = [scores.trials for _, scores in _scores(units, group, scorer)]
    kinds = sorted({(t.level, str(t.truth)) for trials in of_units for t in trials})
    for level, truth in kinds:
        for measure, read in measures.items():
            means = []
            for trials in of_units:
                mine = [read(t) for t in trials if (t.level, str(t.truth)) == (level, truth) and t.said is not None]
                known = [value for value in mine if value is not None]
                if known:
                    means.append(float(np.mean(known)))
            if means:
                mean = mean_estimate(np.asarray(means), NAME, seed, draws)
                right = {"True": "yes", "False": "no", "None": None}[truth]
                rows.append((scorer, group, level, right, measure, mean.value, mean.low, mean.high, len(means)))
    return rows


def _array(values: Iterable[float]) -> NDArray[np.float64]:
    return np.fromiter(values, np.float64)

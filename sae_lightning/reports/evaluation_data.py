"""Reads an evaluation (what ``evaluation.json`` holds) for those who draw it: the table and the page."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sae_lightning.studies.evaluation.compare import NO_INTERVAL, SAME, CompareStudy
from sae_lightning.studies.meaning import better

# The order in which studies are shown; what is not named here comes after, by name.
STUDIES = (
    "reconstruction",
    "sites",
    "latent_scaling",
    "sparsity",
    "downstream",
    "probe",
    "ablation",
    "ablation_sparsity",
    "groundtruth",
)
COMPARE = CompareStudy.name


@dataclass(frozen=True)
class Figure:
    """One metric of one SAE: value and 95 % interval, None where undefined; tokens it was measured on."""

    value: float | None
    low: float | None
    high: float | None
    tokens: int

    @property
    def interval(self) -> str:
        """The interval as text, empty where there is none."""
        return "" if self.low is None or self.high is None else f"[{short(self.low)}, {short(self.high)}]"


def short(value: float | None) -> str:
    """Return four digits of a number; a dash for what has no value."""
    if value is None:
        return "-"
    return f"{int(value):,}" if abs(value) < 1e8 and value == int(value) else f"{value:.4g}"


def names(evaluation: dict[str, Any]) -> list[str]:
    """Return the SAEs' names."""
    return list(evaluation["saes"])


def studies(evaluation: dict[str, Any]) -> list[str]:
    """Return the studies that any SAE was asked, in the order in which they are shown."""
    asked = dict.fromkeys(study for sae in evaluation["saes"].values() for study in sae["studies"])
    return [s for s in STUDIES if s in asked] + sorted(s for s in asked if s not in STUDIES)


def metrics(evaluation: dict[str, Any], study: str) -> list[str]:
    """Return the metrics of a study that any SAE has, in the study's order."""
    results = (sae["studies"].get(study) for sae in evaluation["saes"].values())
    return list(dict.fromkeys(name for result in results if result for name in result["estimates"]))


def figure(evaluation: dict[str, Any], sae: str, study: str, metric: str) -> Figure | None:
    """Return one SAE's figure; None where it was not measured."""
    found = evaluation["saes"][sae]["studies"].get(study, {}).get("estimates", {}).get(metric)
    return None if found is None else Figure(found["value"], found["low"], found["high"], found["tokens"])


def tokens(evaluation: dict[str, Any], sae: str) -> int:
    """Return the largest number of tokens that a figure of this SAE is over."""
    results = evaluation["saes"][sae]["studies"].values()
    return max((e["tokens"] for result in results for e in result["estimates"].values()), default=0)


def differences(evaluation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the comparison as dicts; none where SAEs were not compared."""
    found = evaluation.get("comparisons", {}).get(COMPARE, {}).get("tables", {}).get("differences")
    for row in found["rows"] if found else ():
        yield dict(zip(found["columns"], row, strict=True))


def best(evaluation: dict[str, Any], study: str, metric: str) -> str | None:
    """Return the SAE with the best value; None where fewer than two have one or neither way is better."""
    way = better(metric)
    values = {
        name: found.value
        for name in names(evaluation)
        if (found := figure(evaluation, name, study, metric)) is not None and found.value is not None
    }
    if way is None or len(values) < 2:
        return None
    keys = {"lower": lambda v: v, "higher": lambda v: -v, "one": lambda v: abs(v - 1)}
    return min(values, key=lambda name: keys[way](values[name]))


def standing(evaluation: dict[str, Any], study: str, metric: str) -> dict[str, str]:
    """Return a word for an SAE: ``best``; ``≈ best`` for several of which none can be told to be the best; ``≈ NAME``
    where neither way is better.

    Empty where SAEs were not compared by this metric.
    """
    rows = [row for row in differences(evaluation) if (row["study"], row["metric"]) == (study, metric)]
    rows = [row for row in rows if row["verdict"] != NO_INTERVAL]
    pairs = {frozenset((row["a"], row["b"])) for row in rows if row["verdict"] == SAME}
    top = best(evaluation, study, metric)
    if top is not None:
        words = {name: "≈ best" for name in names(evaluation) if frozenset((name, top)) in pairs}
        return words | {top: "≈ best" if words else "best"} if rows else {}
    if all(row["low"] == row["high"] == 0 for row in rows):
        return {}  # a figure that has nothing to do with the SAE
    alike = {name: [o for o in names(evaluation) if frozenset((name, o)) in pairs] for name in names(evaluation)}
    return {name: f"≈ {', '.join(others)}" for name, others in alike.items() if others}

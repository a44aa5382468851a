"""From the records of a sweep to its scaling laws: which runs compare, and which law each set of them is asked for."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core.progress import progress
from sae_lightning.studies.scaling.bootstrap import Select
from sae_lightning.studies.scaling.fit import (
    COMPUTE,
    COMPUTE_FLOOR,
    JOINT,
    WIDTH,
    WIDTH_FLOOR,
    Fit,
    Refusal,
    fit_law,
)
from sae_lightning.studies.scaling.pareto import front
from sae_lightning.studies.scaling.records import Collection, Record
from sae_lightning.studies.scaling.solve import Array

# Settings of data= that change how a run reads its rows and not which rows they are.
_READING = tuple(f"data.{name}" for name in ("batch_size", "buffer", "mix", "micro_batch", "seed", "share", "cache"))
Key = TypeVar("Key")


def grouped(records: Iterable[Record], key: Callable[[Record], Key]) -> dict[Key, list[Record]]:
    """Return the records by key, in the order in which the keys appear."""
    groups: dict[Key, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def subjects(collection: Collection) -> dict[str, list[Record]]:
    """Return the records by what their loss is about: architecture, language model, sites, data.

    Losses of different activations do not compare. The label names what differs within the collection.
    """
    data = [k for k in collection.differing() if k.startswith("data.") and not k.startswith(_READING)]
    rows = [
        {
            "architecture": record.values.get("architecture"),
            **{name: record.values.get(name) for name in ("lm", "sites", "d_in", "d_out")},
            **{name: record.settings.get(name) for name in data},
        }
        for record in collection.records
    ]
    shown = [name for name in rows[0] if name == "architecture" or len({repr(row[name]) for row in rows}) > 1]
    labels = {
        id(record): ", ".join(str(row[n]) if n == "architecture" else f"{n} {row[n]}" for n in shown)
        for record, row in zip(collection.records, rows, strict=True)
    }
    return grouped(collection.records, lambda record: labels[id(record)])


def scaling_laws(collection: Collection, *, draws: int = 1000, seed: int = 0) -> list[Fit | Refusal]:
    """Fit L(N) and L(C) at each k, and L(N, k), for each subject; L is fvu, the normalised MSE.

    L(N), L(N, k): of the runs with equal N, k and seed the best one counts, so that a sweep over learning rates or
    budgets is read as a search for the best. L(C): the lower envelope of all runs over ``training_flops``.
    """
    results: list[Fit | Refusal] = []
    every = subjects(collection)
    with progress("scaling laws", len(every)) as advance:
        for subject, records in every.items():
            results += _laws_of(subject, [r for r in records if (r.number("fvu") or 0) > 0], draws, seed)
            advance(1, subject)
    return results


def _laws_of(subject: str, records: Sequence[Record], draws: int, seed: int) -> list[Fit | Refusal]:
    sized = [r for r in records if r.number("d_sae") is not None]
    with_k = [r for r in sized if r.number("k") is not None]
    results: list[Fit | Refusal] = []
    for k, runs in sorted(grouped(with_k, lambda r: r.number("k") or 0.0).items()):
        best = _best(runs, ("d_sae", "seed"))
        for law in (WIDTH, WIDTH_FLOOR):
            widths = {"N": _column(best, "d_sae")}
            results.append(fit_law(law, subject, widths, _loss(best), k=k, draws=draws, seed=seed))
        counted = [r for r in runs if r.number("training_flops")]
        flops, loss = _column(counted, "training_flops"), _loss(counted)
        envelope = _envelope(flops, loss)
        for law in (COMPUTE, COMPUTE_FLOOR):
            results.append(fit_law(law, subject, {"C": flops}, loss, k=k, draws=draws, seed=seed, select=envelope))
    if sized and not with_k:
        reason = "the architecture fixes no k, and L compares at equal sparsity only; see L(N, k), which takes the L0"
        results += [Refusal(law, subject, reason) for law in (WIDTH, COMPUTE)]
    results.append(_joint(subject, sized, with_k, draws, seed))
    return results


def _joint(subject: str, sized: list[Record], with_k: list[Record], draws: int, seed: int) -> Fit | Refusal:
    """L(N, k); where the architecture fixes no k, at the measured L0 of the runs on each width's front of (L0, L)."""
    if with_k:
        runs = _best(with_k, ("d_sae", "k", "seed"))
        n, k, select = _column(runs, "d_sae"), _column(runs, "k"), None
    else:
        runs, subject = [r for r in sized if r.number("l0")], f"{subject}, k = measured L0"
        n, k = _column(runs, "d_sae"), _column(runs, "l0")
        select = _envelope(k, _loss(runs), n)
    return fit_law(JOINT, subject, {"N": n, "k": k}, _loss(runs), draws=draws, seed=seed, select=select)


def _envelope(cost: Array, loss: Array, groups: Array | None = None) -> Select:
    """Return the function that picks, of some runs, those on the front of (cost, loss): in each group by itself."""

    def select(chosen: NDArray[np.intp]) -> NDArray[np.intp]:
        parts = [chosen] if groups is None else [chosen[groups[chosen] == g] for g in np.unique(groups[chosen])]
        found = [
            part[front(list(zip(cost[part].tolist(), loss[part].tolist(), strict=True)), ["minimise", "minimise"])]
            for part in parts
        ]
        return np.concatenate([chosen[:0], *found])

    return select


def _best(records: Iterable[Record], names: tuple[str, ...]) -> list[Record]:
    """Return, of the records that agree in ``names``, the one with the lowest fvu."""
    groups = grouped(records, lambda r: tuple(r.number(name) for name in names))
    return [min(group, key=lambda r: r.number("fvu") or np.inf) for group in groups.values()]


def _column(records: Sequence[Record], name: str) -> Array:
    return np.array([record.number(name) for record in records], np.float64)


def _loss(records: Sequence[Record]) -> Array:
    return _column(records, "fvu")


def preferred(results: Sequence[Fit | Refusal]) -> set[int]:
    """Return the numbers of the fits that describe their runs best: of a law's forms, the one with the lowest AICc."""
    best: dict[tuple[str, str, float | None], int] = {}
    for i, fit in enumerate(results):
        if isinstance(fit, Fit):
            key = (fit.law.name, fit.subject, fit.k)
            held = results[best[key]] if key in best else None
            if not isinstance(held, Fit) or fit.aicc < held.aicc:
                best[key] = i
    return set(best.values())

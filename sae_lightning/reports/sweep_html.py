"""The page of a sweep: one HTML file that needs nothing beside it, neither files nor a network."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sae_lightning.reports.page import cell, head, number, page, table, text
from sae_lightning.reports.sweep_table import SweepTable
from sae_lightning.studies.meaning import meaning
from sae_lightning.studies.scaling import Collection, Fit, Front, Refusal, preferred


def sweep_page(
    title: str,
    collection: Collection,
    runs: SweepTable,
    fronts: Sequence[Front],
    laws: Sequence[Fit | Refusal],
    figures: Mapping[str, Path],
) -> str:
    """Return the page. figures: name -> PNG; names begin with ``front``, ``dead`` or ``law``.

    Every text that comes from a run (names, settings, reasons) is escaped.
    """
    n, left = len(collection.records), len(collection.missing)
    count = f"{n} trained SAE{'s' * (n != 1)}" + (f"; {left} without a result, listed at the end" if left else "")
    parts = [
        f"<h1>Sweep: {text(title)}</h1><p class=quiet>{count}.</p>",
        "<h2>Pareto fronts</h2>",
        _pictures(figures, "front"),
        _front_table(fronts),
        "<h2>Dead features</h2>",
        _pictures(figures, "dead", wide=True) or "<p>No run has a learning rate and a share of dead features.</p>",
        "<h2>Scaling laws</h2>",
        _laws(laws, figures),
        "<h2>All runs</h2>",
        "<p><label>Show rows with <input id=filter type=search></label> "
        "<span class=quiet>Click a column's head to sort. 1 in an <code>on_</code> column: on that front.</span></p>",
        _runs(runs),
        _missing(collection),
    ]
    return page(f"Sweep: {title}", parts)


def _pictures(figures: Mapping[str, Path], prefix: str, *, wide: bool = False) -> str:
    pictures = [
        f'<figure{" class=wide" * wide}><img alt="{text(name)}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}"></figure>'
        for name, path in figures.items()
        if name.startswith(prefix)
    ]
    return f"<div class=figures>{''.join(pictures)}</div>" if pictures else ""


def _front_table(fronts: Sequence[Front]) -> str:
    if not fronts:
        return "<p>No run has both objectives of a front.</p>"
    rows = [
        [
            cell(", ".join(item.objectives)),
            cell(item.subject),
            cell(len(item.members)),
            cell(item.area),
            cell(", ".join(f"{o} {number(r)}" for o, r in zip(item.objectives, item.reference, strict=True))),
        ]
        for item in fronts
    ]
    note = "" if any("delta_ce" in item.objectives for item in fronts) else _NO_DELTA_CE
    return (
        "<p>A run is on the front when no other of its row is as good in both and better in one. Hypervolume: the area "
        "that a front dominates up to the reference point, the worst value of all runs here (of fvu: 1, the mean "
        f"predictor); larger is better.{note}</p>"
        + table(["objectives", "runs of", "on the front", "hypervolume", "reference point"], rows)
    )


_NO_DELTA_CE = " There is no front of (l0, delta_ce): no run measured delta_ce, which needs a language model."


def _laws(laws: Sequence[Fit | Refusal], figures: Mapping[str, Path]) -> str:
    fits = [(i, law) for i, law in enumerate(laws) if isinstance(law, Fit)]
    parts = [
        "<p>L is the FVU on held-out rows, fitted in log space with a loss that is linear for outliers. L(N) and "
        "L(N, k) take the best of the runs with equal N, k and seed (where the architecture fixes no k: each width's "
        "front of L0 and L); L(C) takes the lower envelope over training flops (dense count, the language model's not "
        "in it). Brackets: 95 % intervals from a bootstrap over runs, widened for few points. Where two forms of a law "
        "were fitted, the shaded one has the lower AICc.</p>"
    ]
    if fits:
        rows = [
            [
                f"<td class=formula><code>{text(fit.law.formula)}</code></td>",
                cell(fit.subject),
                cell(fit.k),
                cell(fit.n),
                f"<td>{'<br>'.join(_parameters(fit))}</td>",
                cell(float(np.sqrt((fit.residuals**2).mean()))),
                f"<td class=text>{text('; '.join(fit.flags))}</td>",
            ]
            for _, fit in fits
        ]
        columns = ["law", "runs of", "k", "points", "parameters and 95 % intervals", "rms residual of ln L", "mind"]
        best = preferred(laws)
        forms = Counter(_runs_of(fit) for _, fit in fits)
        marks = [" class=best" * (i in best and forms[_runs_of(fit)] > 1) for i, fit in fits]
        parts.append(table(columns, rows, marks=marks))
        parts.append(_pictures(figures, "law"))
    refused: dict[tuple[str, str, str], list[str]] = {}
    for law in laws:
        if isinstance(law, Refusal):
            refused.setdefault((law.law.formula, law.subject, law.reason), []).append(
                "" if law.k is None else number(law.k)
            )
    if refused:
        rows = [
            [f"<td><code>{text(formula)}</code></td>", cell(subject), cell(", ".join(ks)), cell(reason)]
            for (formula, subject, reason), ks in refused.items()
        ]
        parts.append("<h3>Not fitted</h3>" + table(["law", "runs of", "k", "why"], rows))
    return "\n".join(parts)


def _runs_of(fit: Fit) -> tuple[str, str, float | None]:
    return fit.law.name, fit.subject, fit.k


def _parameters(fit: Fit) -> list[str]:
    return [
        f"{text(name)} = {value:.4g} [{low:.4g}, {high:.4g}]"
        for name, value, low, high in zip(fit.law.parameters, fit.estimate, fit.lower, fit.upper, strict=True)
    ]


def _runs(runs: SweepTable) -> str:
    heads = [head(name, meaning(name)) for name in runs.columns]
    return table(heads, [[cell(row[c]) for c in runs.columns] for row in runs.rows], 'class=sortable id="runs"')


def _missing(collection: Collection) -> str:
    if not collection.missing:
        return ""
    rows = [[cell(m.run_dir), cell(m.lane), cell(m.kind), cell(m.reason)] for m in collection.missing]
    return f"<h2>Without a result: {len(rows)}</h2>" + table(["run_dir", "lane", "what", "why"], rows)

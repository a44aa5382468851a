"""The sections of an evaluation's page: one a study, and the comparison of SAEs."""

from collections.abc import Callable
from typing import Any

from sae_lightning.reports import evaluation_data as data
from sae_lightning.reports.evaluation_figures import Mark, bars, histogram, whiskers
from sae_lightning.reports.page import cell, head, table, text
from sae_lightning.studies.evaluation.compare import NO_INTERVAL, SAME
from sae_lightning.studies.meaning import meaning

ABOUT = {
    "reconstruction": "How well held-out activations are reconstructed.",
    "sites": "Of each site that is written: how well it is reconstructed, and how features' decoder norm is shared out "
    "among the sites (of two models, among the models).",
    "latent_scaling": "Whether features of one model's decoder alone are there in the other model as well: what its "
    "error, and its reconstruction, hold of them (Minder et al. 2025).",
    "sparsity": "How many features are active, and how often each is.",
    "downstream": "What the language model loses with the reconstruction in the activation's place; masked positions "
    "keep the clean activation.",
    "probe": "What single features, and a few of them, tell about labelled texts, between a floor (random features) "
    "and a ceiling (a probe of the activations themselves).",
    "ablation": "What removing one feature changes in the language model's predictions.",
    "ablation_sparsity": "Over how many logits the effect of one removed feature spreads.",
    "groundtruth": "Whether the planted features of synthetic data are found.",
}
# Rows of one table on the page; evaluation.json has them all.
MOST_ROWS = 300

Draw = Callable[[dict[str, Any], str, int], str]


def study_section(evaluation: dict[str, Any], study: str) -> str:
    """Return one study's figures of every SAE, its pictures, tables and notes."""
    parts = [f"<h2>{text(study)}</h2>", f"<p>{text(ABOUT.get(study, ''))}</p>" if study in ABOUT else ""]
    parts.append(_estimates(evaluation, study))
    columns = []
    for i, (name, one) in enumerate(evaluation["saes"].items()):
        result = one["studies"].get(study)
        if result is None:
            continue
        inner = [PICTURES[study](result, name, i)] if study in PICTURES else []
        inner += [shown(key, found) for key, found in result.get("tables", {}).items() if key not in _DRAWN]
        inner += [_notes(result)]
        if any(inner):
            title = f"<h3>{text(name)}</h3>" if len(evaluation["saes"]) > 1 else ""
            columns.append(f"<div>{title}{''.join(inner)}</div>")
    return "".join(parts) + (f"<div class=columns>{''.join(columns)}</div>" if columns else "")


def comparisons(evaluation: dict[str, Any]) -> str:
    """Return what was asked of several SAEs together: differences first, sure ones shaded."""
    parts = []
    for study, result in evaluation.get("comparisons", {}).items():
        parts.append(f"<h2>{text(study)}</h2>")
        if study == data.COMPARE:
            parts.append(
                "<p>Differences a - b on the same windows, with the 95 % interval of the difference. Shaded: the "
                "interval does not hold 0.</p>"
            )
        elif found := result.get("estimates"):
            marks = [Mark(name, data.Figure(**value)) for name, value in found.items()]
            rows = [
                [cell(m.name), *(cell(v) for v in (m.figure.value, m.figure.low, m.figure.high)), _meaning(m.name)]
                for m in marks
            ]
            parts.append(_sortable(["metric", "value", "low", "high", "meaning"], rows))
        parts += [shown(key, found) for key, found in result.get("tables", {}).items()]
        parts.append(_notes(result))
    return "".join(parts)


def shown(key: str, found: dict[str, Any]) -> str:
    """Return a study's table, sortable; rows whose verdict is a difference are shaded."""
    columns, rows = found["columns"], found["rows"]
    verdict = columns.index("verdict") if "verdict" in columns else None
    kept = rows[:MOST_ROWS]
    marks = ["" if verdict is None or row[verdict] in (SAME, NO_INTERVAL) else " class=best" for row in kept]
    more = f" The first {MOST_ROWS} of {len(rows):,} rows; evaluation.json has all." if len(rows) > MOST_ROWS else ""
    title = f"<h3>{text(found.get('caption') or key)}</h3>" + (f"<p class=quiet>{more}</p>" if more else "")
    return title + _sortable(columns, [[cell(value) for value in row] for row in kept], marks)


def _sortable(columns: list[str], rows: list[list[str]], marks: list[str] | None = None) -> str:
    return table([head(column, meaning(column)) for column in columns], rows, "class=sortable", marks or [])


def _meaning(metric: str) -> str:
    return f"<td class=text>{text(meaning(metric))}</td>"


def _notes(result: dict[str, Any]) -> str:
    notes = "".join(f"<li>{text(note)}</li>" for note in result.get("notes", ()))
    return f"<ul class=quiet>{notes}</ul>" if notes else ""


def _estimates(evaluation: dict[str, Any], study: str) -> str:
    names, metrics = data.names(evaluation), data.metrics(evaluation, study)
    if not metrics:
        return ""
    rows = []
    for metric in metrics:
        words = data.standing(evaluation, study, metric)
        row = [cell(metric)]
        for name in names:
            found = data.figure(evaluation, name, study, metric)
            if len(names) == 1:
                values = (found.value, found.low, found.high, found.tokens) if found else (None,) * 4
                row += [cell(value) for value in values]
            else:
                row.append(_beside(found, words.get(name, "")))
        rows.append([*row, _meaning(metric)])
    columns = ["value", "low", "high", "tokens"] if len(names) == 1 else names
    return _sortable(["metric", *columns, "meaning"], rows)


def _beside(found: data.Figure | None, word: str) -> str:
    if found is None or found.value is None:
        return "<td></td>"
    mark = f" <b>{text(word)}</b>" if word else ""
    return (
        f'<td class=number data-value="{found.value!r}">{data.short(found.value)} '
        f"<span class=quiet>{found.interval}</span>{mark}</td>"
    )


def _losses(result: dict[str, Any], name: str, i: int) -> str:
    runs = {"clean": "ce_clean", "spliced": "ce_spliced", "mean ablation": "ce_mean", "zero ablation": "ce_zero"}
    found = result["estimates"]
    marks = [Mark(run, data.Figure(**found[key]), colour=i) for run, key in runs.items() if key in found]
    drawn = bars(marks, "cross-entropy, nats a token")
    return f"<h3>Cross-entropy, nats a token</h3>{drawn}" if drawn else ""


def _density(result: dict[str, Any], name: str, i: int) -> str:
    found = result.get("tables", {}).get("density_histogram")
    if not found or not found["rows"]:
        return ""
    lows, highs, counts = zip(*found["rows"], strict=True)
    return histogram(lows, highs, counts, found["caption"], i)


def _shares(result: dict[str, Any], name: str, i: int) -> str:
    """Draw the histogram of the decoder norm's shares: one of two parts, each of several."""
    found = result.get("tables", {}).get("share_histogram")
    if not found or not found["rows"]:
        return ""
    lows, highs, *parts = zip(*found["rows"], strict=True)
    parts_named = zip(found["columns"][2:], parts, strict=True)
    return "".join(histogram(lows, highs, n, f"{part}: {found['caption']}", i) for part, n in parts_named)


def _scaled(result: dict[str, Any], name: str, i: int) -> str:
    found = result.get("tables", {}).get("nu_histogram")
    if not found or not found["rows"]:
        return ""
    lows, highs, counts = zip(*found["rows"], strict=True)
    return histogram(lows, highs, counts, found["caption"], i)


def _probes(result: dict[str, Any], name: str, i: int) -> str:
    """Draw each task's probes between floor and ceiling: ``KIND_probe_METRIC/TASK[/kK]``."""
    groups: dict[tuple[str, str], list[tuple[int, Mark]]] = {}
    for key, value in result["estimates"].items():
        kind, _, rest = key.partition("/")
        task, _, k = rest.partition("/")
        rung = next((r for r, (start, _) in enumerate(_LADDER) if kind.startswith(start)), None)
        if rung is None or not task:
            continue
        label = " ".join(part for part in (_LADDER[rung][1], k.replace("k", "k = ", 1)) if part)
        shade = 6 if rung in (0, len(_LADDER) - 1) else i
        mark = Mark(label, data.Figure(**value), colour=shade)
        groups.setdefault((task, kind.rpartition("_")[2]), []).append((rung, mark))
    parts = []
    for (task, metric), marks in groups.items():
        ordered = [mark for _, mark in sorted(marks, key=lambda pair: pair[0])]
        parts.append(f"<h3>{text(task)}: {text(_PROBED.get(metric, metric))}</h3>{whiskers(ordered, metric)}")
    return "".join(f"<div>{part}</div>" for part in parts)


_LADDER = (
    ("random_probe_", "floor: random features,"),
    ("probe_", "best single feature"),
    ("sparse_probe_", "features,"),
    ("dense_probe_", "ceiling: activations"),
)
_PROBED = {"loss": "cross-entropy, nats (chance 0.693, lower is better)", "accuracy": "accuracy (chance 0.5)"}
PICTURES: dict[str, Draw] = {
    "downstream": _losses,
    "latent_scaling": _scaled,
    "probe": _probes,
    "sites": _shares,
    "sparsity": _density,
}
_DRAWN = {"density_histogram", "nu_histogram", "share_histogram"}

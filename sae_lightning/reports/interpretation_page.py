"""The page of an interpretation: how well features can be said in words, beside neurons and shuffled explanations."""

from pathlib import Path
from typing import Any

from sae_lightning.reports.evaluation_data import Figure, short
from sae_lightning.reports.evaluation_figures import STYLE as WHISKERS
from sae_lightning.reports.evaluation_figures import Mark, whiskers
from sae_lightning.reports.interpretation_figures import STYLE as CURVES
from sae_lightning.reports.interpretation_figures import Curve, legend, level_curves
from sae_lightning.reports.interpretation_table import GROUPS, by_score
from sae_lightning.reports.page import cell, head, page, table, text, write_page
from sae_lightning.reports.site.escape import visible
from sae_lightning.studies.meaning import meaning

_SHOWN = ("features", "neurons", "features_shuffled", "neurons_shuffled")
_COLOURS = {"features": 0, "neurons": 1, "features_shuffled": 4, "neurons_shuffled": 5}
# Scorers whose answers by level are drawn: what is drawn, where the scale ends. How often a judge says yes by chance is
# its own affair: what to compare with are the shuffled explanations and the silent stretches.
_LEVELS = {
    "rubric": ("grade from 0 (nothing to do with the text) to 3 (exactly what is marked)", 3.0),
    "detection": ("share of stretches said to fit the description; of silent ones it should be 0", 1.0),
    "fuzzing": ("share of rightly marked stretches said to fit the description", 1.0),
    "matching": ("share of stretches for which the description was chosen among others", 1.0),
}
_STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: .8rem;
  margin: 1rem 0; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: .6rem .9rem .7rem; background: var(--panel);
  break-inside: avoid; min-width: 0; }
.card h3 { margin: 0; font-size: .95rem; } .card p { margin: .1rem 0 .4rem; font-size: 12px; line-height: 1.35; }
td.said { white-space: normal; min-width: 11rem; max-width: 18rem; overflow-wrap: anywhere; }
td.seen { white-space: normal; min-width: 18rem; max-width: 26rem; overflow-wrap: anywhere; color: var(--quiet); }
td.seen p { margin: 0 0 .25rem; } td.seen b { color: var(--ink); font-weight: 600; border-radius: 2px;
  background: color-mix(in srgb, var(--c0) calc(var(--s) * 1%), transparent); }
.facts td { white-space: normal; overflow-wrap: anywhere; } .facts th { text-align: left; }
@media (max-width: 480px) { body { padding: 0 .7rem; margin: 1rem auto; } th, td { padding: .25rem .4rem; } }
"""
_HOW = """<details><summary>How it is measured</summary>
<p>Texts are dealt into two halves. Stretches of the first are shown to the explainer, of the second to the judge;
levels are equal slices of (floor, largest activation], and of each level as many stretches are taken. Detection: is the
unit active in this stretch? Fuzzing: are the marked words those it is active on, or others? Rubric: how exactly does
the description say what is marked? Each is asked of one stretch at a time.</p>
<p>Shuffled: the same questions with the explanation of another unit of the same kind. What a judge gives to those, it
gives to any explanation whatever; only what lies above is about the unit. Neurons count as active on as large a share
of the tokens as the median feature, where they are strongest. Means are over units, whose resampling gives the
intervals; answers that could not be used are counted (usable) and are in no score.</p></details>"""


def write_interpretation_page(path: Path, said: dict[str, Any]) -> None:
    """Write the page of what ``interpretation.json`` holds; it needs nothing else."""
    write_page(path, interpretation_page(said))


def interpretation_page(said: dict[str, Any]) -> str:
    """Return the page. What comes from the corpus or a language model is text that hides nothing."""
    counts = {kind: sum(unit["kind"] == kind for unit in said["units"]) for kind in ("feature", "neuron")}
    title = f"Interpretation of {counts['feature']} features and {counts['neuron']} neurons"
    when = str(said["created"]).replace("T", " ")[:16]
    scores = by_score(said)
    parts = [
        f"<h1>{text(title)}</h1>",
        f"<p class=quiet>{text(visible(said['sae']['name']))} on {text(visible(said['lm'] or 'its language model'))}, "
        f"explained by {text(visible(said['explainer']))} on {text(when)}. Brackets and whiskers: 95 % intervals from "
        f"a bootstrap of {text(said['draws'])} draws over units (seed {text(said['seed'])}).</p>",
        _cards(scores),
        _by_level(said),
        f"<h2>Units</h2><p><input id=filter type=search placeholder='filter: words' aria-label='filter'></p>"
        f"{_units(said, scores)}",
        _all_figures(scores),
        _facts(said, counts),
        _HOW,
    ]
    return page(title, parts, WHISKERS + CURVES + _STYLE)


def _cards(scores: dict[str, dict[str, Figure]]) -> str:
    """Return each score of all groups on one scale, and what tells them apart."""
    out = []
    for name, groups in scores.items():
        marks = [
            Mark(GROUPS[group], groups[group], colour=_COLOURS[group])
            for group in _SHOWN
            if group in groups and groups[group].value is not None
        ]
        if not marks or name.endswith("_usable"):
            continue
        apart = [
            f"{GROUPS[group]} {short(found.value)} {found.interval}"
            for group, found in groups.items()
            if group not in _SHOWN and found.value is not None
        ]
        said = "".join(f"<br>{text(line)}" for line in apart)
        out.append(
            f"<section class=card><h3>{text(name)}</h3><p class=quiet>{text(meaning(name))}</p>"
            f"{whiskers(marks, name, _scale(name))}<p class=quiet>{said.removeprefix('<br>')}</p></section>"
        )
    return f"<h2>Scores</h2><div class=cards>{''.join(out)}</div>" if out else ""


def _scale(name: str) -> tuple[float, float] | None:
    """Return all that a score can be, so that groups which hardly differ look like it."""
    if name.endswith("correlation"):
        return None
    return (0.0, 3.0) if name.endswith("grade") else (0.0, 1.0)


def _by_level(said: dict[str, Any]) -> str:
    found = said["result"]["tables"].get("levels")
    if found is None:
        return ""
    rows = [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
    out = ""
    for scorer, (label, top) in _LEVELS.items():
        for measure in ("said", "expected"):
            curves = [_curve(rows, scorer, group, measure) for group in _SHOWN]
            curves = [one for one in curves if one.levels]
            if curves:
                how = "mean of the answers" if measure == "said" else "mean under the judge's probabilities"
                out += level_curves(curves, top, f"{scorer}, {how}: {label}")
    every = [Curve(GROUPS[group], {}, _COLOURS[group]) for group in _SHOWN]
    every = [one for one in every if any(row["group"] == _group(one.name) for row in rows)]
    if not out:
        return ""
    return f"<h2>By level of activation</h2><p>Level 1 is the weakest.</p>{legend(every)}<div class=figures>{out}</div>"


def _group(name: str) -> str:
    return next(group for group, shown in GROUPS.items() if shown == name)


def _curve(rows: list[dict[str, Any]], scorer: str, group: str, measure: str) -> Curve:
    mine = {
        row["level"]: Figure(row["mean"], row["low"], row["high"], row["units"])
        for row in rows
        if (row["scorer"], row["group"], row["measure"]) == (scorer, group, measure)
        # Wrong marks are of the same levels as right ones; the curve is of the right ones.
        and not (row["right"] == "no" and row["level"] >= 0)
    }
    return Curve(GROUPS[group], mine, _COLOURS[group], dashed=group.endswith("shuffled"))


def _units(said: dict[str, Any], scores: dict[str, dict[str, Figure]]) -> str:
    """Return the table of units: what each is said to mean, how well that holds, and where it is strongest."""
    names = [name for name, groups in scores.items() if _is_of_units(name) and set(groups) & set(_SHOWN)]
    columns = [
        head("unit"),
        head("explanation"),
        head("strongest"),
        *(head(name.replace("_", " "), meaning(name)) for name in names),
        head("usable", "answers about this unit that could be used, of those asked"),
        head("density", "share of tokens it is active on"),
    ]
    return table(columns, [_row(unit, names, said["explainer"]) for unit in said["units"]], "class=sortable id=runs")


def _is_of_units(name: str) -> bool:
    return name != "explained" and not name.endswith("_usable")


def _row(unit: dict[str, Any], names: list[str], explainer: str) -> list[str]:
    values = {f"{s}_{key}": v for s, one in unit["scores"].items() if one for key, v in one["values"].items()}
    explanation = unit["explanation"]
    if explanation is not None:
        values |= {f"{explainer}_{key}": value for key, value in explanation["scores"].items()}
    asked = sum(one["asked"] for one in unit["scores"].values() if one)
    usable = sum(one["usable"] for one in unit["scores"].values() if one)
    said = "<i>none</i>" if explanation is None else text(visible(explanation["text"]))
    key = unit["index"] if unit["kind"] == "feature" else f"{unit['layer']}.{unit['index']}"
    order = unit["index"] if unit["kind"] == "feature" else 1e9 + 1e6 * unit["layer"] + unit["index"]
    return [
        f'<td data-value="{order:.0f}">{unit["kind"]} {text(key)}</td>',
        f"<td class=said>{said}</td>",
        f"<td class=seen>{''.join(f'<p>{_marked(one)}</p>' for one in unit['examples'])}</td>",
        *(cell(values.get(name)) for name in names),
        f"<td class=number data-value={usable}>{usable} of {asked}</td>",
        cell(unit["density"]),
    ]


def _marked(example: dict[str, Any]) -> str:
    """Return a stretch with every active token on a ground as strong as its activation."""
    largest = max(example["values"], default=0.0)
    out = []
    for piece, value in zip(example["pieces"], example["values"], strict=True):
        shown = text(visible(piece))
        out.append(f'<b style="--s:{10 + 50 * value / largest:.0f}">{shown}</b>' if value > 0 and piece else shown)
    return "".join(out)


def _all_figures(scores: dict[str, dict[str, Figure]]) -> str:
    rows = [
        [
            f"<td>{text(name)}</td>",
            f"<td>{text(GROUPS[group])}</td>",
            cell(found.value),
            f"<td>{text(found.interval)}</td>",
            cell(found.tokens),
            f"<td class=text>{text(meaning(name))}</td>",
        ]
        for name, groups in scores.items()
        for group, found in groups.items()
    ]
    columns = [head(name) for name in ("score", "of", "value", "95 % interval", "units", "meaning")]
    return f"<h2>All figures</h2>{table(columns, rows, 'class=sortable')}"


def _facts(said: dict[str, Any], counts: dict[str, int]) -> str:
    usage = said["usage"]
    problems = {} if usage is None else usage["problems"]
    facts = {
        "units": f"{counts['feature']} features, {counts['neuron']} neurons",
        "text": f"the first {said['tokens']:,} tokens of the store {said['store']}",
        "recorded of each": "; ".join(f"{key} {value}" for key, value in said["record"].items()),
        "asked": said["client"] or "nobody",
        "prompts": f"version {said['prompt_version']}",
    }
    if usage is not None:
        facts["requests"] = f"{usage['requests']:,}, {usage['answered']:,} answered; {usage['kept']:,} kept from before"
        facts["tokens"] = f"{usage['prompt_tokens']:,} read, {usage['completion_tokens']:,} written"
        facts["cost"] = "not known" if usage["cost"] is None else f"{usage['cost']:.4f}"
        facts["without an answer"] = "; ".join(f"{count} {kind}" for kind, count in problems.items()) or "none"
    rows = [[f"<th scope=row>{text(key)}</th>", cell(visible(value))] for key, value in facts.items()]
    return f"<h2>Facts</h2>{table(['', ''], rows, 'class=facts')}"

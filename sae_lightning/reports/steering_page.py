"""The page of steering: what was pushed, what the language model wrote, and how that goes with the strength."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_lightning.reports import dose_figures, steering_samples
from sae_lightning.reports.dose_figures import Curve, Point, curves, keys
from sae_lightning.reports.evaluation_data import short
from sae_lightning.reports.evaluation_html import plain
from sae_lightning.reports.page import cell, head, page, table, text, write_page
from sae_lightning.reports.site.escape import visible
from sae_lightning.reports.steering_samples import across, down, shades
from sae_lightning.studies.meaning import meaning

# (figure, what it is called, whether on a logarithmic scale)
_PLOTS = (
    ("steered_activation", "activation of the feature in the text, share of its maximum", False),
    ("steered_words", "share of samples with a word of the concept", False),
    ("steered_word_rate", "words of the concept, share of all words", False),
    ("steered_perplexity", "perplexity of the text to the unsteered model", True),
    ("steered_repetition", "repetition: share of 3-grams that were there before", False),
    ("steered_distinct", "distinct tokens over all tokens of a sample", False),
)
# What a strength is a factor of.
_AXES = {
    "clamp": "the feature is held at so many times its maximum",
    "add": "so many times the feature's maximum are added",
    "scale": "the feature has so many times its own activation",
}
# What is not drawn but told.
_TOLD = ("steered_fires", "steered_nats")
_STYLE = """
.facts td { white-space: normal; min-width: 7rem; overflow-wrap: anywhere; } .facts th { text-align: left; }
.facts thead { display: none; }
.doses td { white-space: nowrap; } .interval { color: var(--quiet); font-size: .9em; }
details > summary { cursor: pointer; margin-top: 1.2rem; font-weight: 600; }
h2, summary { overflow-wrap: anywhere; }
@media (max-width: 480px) { body { padding: 0 .7rem; margin: 1rem auto; } th, td { padding: .25rem .4rem; } }
"""


def write_steering_page(path: Path, steering: Mapping[str, Any]) -> None:
    """Write the page of what ``steering.json`` holds; it needs nothing else."""
    write_page(path, steering_page(steering))


def steering_page(steering: Mapping[str, Any]) -> str:
    """Return the page. Every text that comes from a run, a corpus or a language model is escaped."""
    features = {int(one["feature"]): _with_concept(one, steering) for one in steering["features"]}
    names = [f"feature {number}" for number in features]
    what = ", ".join(names) if 0 < len(names) <= 3 else f"{len(names)} features" if names else "reconstruction"
    title = f"Steering {steering['sae']['name']}: {what}"
    when = str(steering["created"]).replace("T", " ")[:16]
    parts = [
        f"<h1>{text(visible(title))}</h1>",
        f"<p class=quiet>Written {text(when)} in {steering['seconds']:.0f} s.</p>",
        _facts(steering),
        _features(features),
        _dose(steering, features),
        _samples(steering, features),
        _notes(steering),
    ]
    return page(visible(title), parts, dose_figures.STYLE + steering_samples.STYLE + _STYLE)


def _with_concept(feature: Mapping[str, Any], steering: Mapping[str, Any]) -> dict[str, Any]:
    """Return a feature with the words of its concept: its own, or those of the settings."""
    words = (steering.get("settings") or {}).get("concept") or ()
    if isinstance(words, Mapping):
        number = feature["feature"]
        words = words.get(number) or words.get(str(number)) or ()
    return {"concept": list(words), **feature}


def _facts(steering: Mapping[str, Any]) -> str:
    sites = steering.get("sites")
    facts = {
        "SAE": steering["sae"].get("path") or steering["sae"]["name"],
        "language model": plain({k: v for k, v in (steering.get("lm") or {}).items() if v is not None}),
        "site": "" if not sites else " to ".join(dict.fromkeys(", ".join(sites[s]) for s in ("read", "write"))),
        "store": steering.get("store") or "",
        "settings": plain({k: v for k, v in (steering.get("settings") or {}).items() if k != "concept"}),
    }
    rows = [
        [f"<th scope=row>{text(key)}</th>", f"<td class=text>{text(visible(value))}</td>"]
        for key, value in facts.items()
        if value
    ]
    return table(["", ""], rows, "class=facts")


def _features(features: Mapping[int, Mapping[str, Any]]) -> str:
    if not features:
        return ""
    columns = ["feature"] + [
        name
        for name in ("maximum", "edit", "concept", "explanation")
        if any(one.get(name) for one in features.values())
    ]
    rows = []
    for one in features.values():
        cells = []
        for name in columns:
            value = one.get(name)
            if isinstance(value, list | tuple):
                value = ", ".join(map(str, value))
            cells.append(f"<td class=text>{text(visible(value))}</td>" if isinstance(value, str) else cell(value))
        rows.append(cells)
    return "<h2>Features</h2>" + table(list(map(text, columns)), rows)


def _dose(steering: Mapping[str, Any], features: Mapping[int, Mapping[str, Any]]) -> str:
    dose = steering.get("dose")
    if not dose:
        return ""
    places = list(dict.fromkeys(v["name"] for group in steering["groups"] for v in _ordered(group["variants"])))
    apart = sum(not any(v["strength"] is not None for v in _named(steering, name)) for name in places)
    axis = _AXES.get((steering.get("settings") or {}).get("mode", "clamp"), "strength")
    lines: dict[str, list[Curve]] = {}
    for name, _, _ in _PLOTS:
        lines[name] = [
            Curve(_called(feature, features), number, _points(dose, name, feature, places), apart)
            for number, feature in enumerate(features)
        ]
    drawn = [
        curves([line for line in lines[name] if line.points], places, label, axis=axis, log=log)
        for name, label, log in _PLOTS
        if name != "steered_distinct"
    ]
    every = [Curve(_called(feature, features), number, ()) for number, feature in enumerate(features)]
    return "\n".join(
        [
            "<h2>Dose-response</h2>",
            f"<p>{_ABOUT}</p>",
            keys(every),
            f"<div class=curves>{''.join(drawn)}</div>",
            keys(every) if len(every) > 1 else "",
            _doses(dose, places, features),
            _changes(dose),
        ]
    )


_ABOUT = (
    "Points with 95 % intervals of a bootstrap over samples (of the share of samples: exact); <i>as is</i>: the same "
    "samples without a push. The activation is read off the finished text without steering: it measures in part what "
    "was pushed. The words of the concept and the perplexity owe nothing to the SAE. Texts that break show it in "
    "perplexity, which is of the tokens that were written, and loops in repetition, which a model likes: a loop has a "
    "low perplexity."
)


def _ordered(variants: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    plain_ones = [v for v in variants if v["strength"] is None]
    return plain_ones + sorted((v for v in variants if v["strength"] is not None), key=lambda v: v["strength"])


def _named(steering: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [v for group in steering["groups"] for v in group["variants"] if v["name"] == name]


def _called(feature: int, features: Mapping[int, Mapping[str, Any]]) -> str:
    words = features[feature].get("concept")
    said = ", ".join(map(str, words[:3])) if words else str(features[feature].get("explanation") or "")
    said = visible(said[:48] + "…" if len(said) > 48 else said)
    return f"feature {feature}" + (f" ({said})" if said else "")


def _points(dose: Mapping[str, Any], figure: str, feature: int, places: Sequence[str]) -> tuple[Point, ...]:
    points = []
    for place, name in enumerate(places):
        found = dose["estimates"].get(f"{figure}/{feature}/{name}")
        if found and found["value"] is not None:
            points.append(Point(place, found["value"], found["low"], found["high"]))
    return tuple(points)


def _doses(dose: Mapping[str, Any], places: Sequence[str], features: Mapping[int, Mapping[str, Any]]) -> str:
    figures = [name for name, *_ in _PLOTS] + list(_TOLD)
    figures = [name for name in figures if any(key.startswith(f"{name}/") for key in dose["estimates"])]
    heads = [head("feature"), head("strength")] + [
        head(name.removeprefix("steered_"), meaning(name)) for name in figures
    ]
    rows = []
    for feature in features:
        for number, place in enumerate(places):
            found = [dose["estimates"].get(f"{name}/{feature}/{place}") for name in figures]
            if any(found):
                strength = f'<td data-value="{number}">{text(place)}</td>'
                rows.append([cell(feature), strength, *(_estimate(one) for one in found)])
    return f"<div class=doses>{table(heads, rows, 'class=sortable')}</div>"


def _estimate(found: Mapping[str, Any] | None) -> str:
    if not found or found["value"] is None:
        return "<td></td>"
    limits = (
        "" if found["low"] is None else f" <span class=interval>[{short(found['low'])}, {short(found['high'])}]</span>"
    )
    return f'<td class=number data-value="{found["value"]!r}">{short(found["value"])}{limits}</td>'


def _changes(dose: Mapping[str, Any]) -> str:
    changes = dose["tables"].get("changes")
    if not changes or not changes["rows"]:
        return ""
    place = {name: i for i, name in enumerate(changes["columns"])}
    rows, marks = [], []
    for row in changes["rows"]:
        low, high = row[place["low"]], row[place["high"]]
        marks.append(" class=best" if low is not None and not low <= 0 <= high else "")
        rows.append([cell(value) for value in row])
    return (
        f"<details><summary>Changes against the text as it is</summary><p>{text(changes['caption'])}, with 95 % "
        "intervals; shaded where the interval does not hold 0.</p>"
        f"{table([head(name) for name in changes['columns']], rows, 'class=sortable', marks)}</details>"
    )


def _samples(steering: Mapping[str, Any], features: Mapping[int, Mapping[str, Any]]) -> str:
    groups = [group for group in steering["groups"] if any(v["samples"] for v in group["variants"])]
    if not groups:
        return ""
    parts = ["<h2>Samples</h2>"]
    several = any(len(group["features"]) > 1 for group in groups)
    parts.append(shades(several) if features else "<p class=quiet>Point at a token for its log p.</p>")
    edits = "; ".join(f"feature {n}: {one['edit']}" for n, one in features.items() if one.get("edit"))
    for number, group in enumerate(groups):
        most = {f: features.get(f, {}).get("maximum") or _largest(group, i) for i, f in enumerate(group["features"])}
        if not steering.get("dose"):
            parts.append(across(group, steering["prompts"], most, {"steered": edits}))
            continue
        name = ", ".join(_called(f, features) for f in group["features"])
        shown = down(group, steering["prompts"], most)
        parts.append(f"<details{' open' if not number else ''}><summary>{text(name)}</summary>{shown}</details>")
    return f"<section class=samples>{''.join(parts)}</section>"


def _largest(group: Mapping[str, Any], column: int) -> float:
    """Return the largest |activation| of one of a group's features in its samples, for want of a store's."""
    values = (row[column] or 0.0 for v in group["variants"] for sample in v["samples"] for row in sample["values"])
    return max(map(abs, values), default=0.0)


def _notes(steering: Mapping[str, Any]) -> str:
    notes = [*(steering.get("notes") or ()), *((steering.get("dose") or {}).get("notes") or ())]
    items = "".join(f"<li>{text(visible(note))}</li>" for note in dict.fromkeys(notes))
    return f"<h2>Notes</h2><ul>{items}</ul>" if items else ""

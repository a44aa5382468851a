"""The page of an evaluation: what was measured, on what, how sure it is, and which differences are inside the noise."""

import re
from pathlib import Path
from typing import Any

from sae_lightning.reports import evaluation_data as data
from sae_lightning.reports.evaluation_figures import STYLE, Mark, whiskers
from sae_lightning.reports.evaluation_sections import comparisons, study_section
from sae_lightning.reports.page import cell, page, table, text, write_page
from sae_lightning.studies.meaning import meaning

# What a reader asks first, where it was measured.
KEY = (
    ("reconstruction", "fvu"),
    ("sparsity", "l0"),
    ("downstream", "delta_ce"),
    ("downstream", "ce_recovered_mean"),
    ("downstream", "kl"),
    ("sparsity", "dead"),
    ("reconstruction", "cosine"),
    ("reconstruction", "l2_ratio"),
    ("groundtruth", "f1"),
    ("groundtruth", "mcc"),
    ("groundtruth", "uniqueness"),
)
_CARDS = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: .8rem;
  margin: 1rem 0; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: .6rem .9rem .7rem; background: var(--panel);
  break-inside: avoid; min-width: 0; }
.card h3 { margin: 0; font-size: .95rem; } .card .big { font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.card p { margin: .1rem 0 .4rem; font-size: 12px; line-height: 1.35; }
.facts td { white-space: normal; min-width: 7rem; overflow-wrap: anywhere; } .facts th { text-align: left; }
.swatch { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .4em; }
.columns { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: .4rem 2rem; }
.columns > div { min-width: 0; } .columns > div:only-child { grid-column: 1 / -1; }
td.number b { white-space: normal; }
details > summary { cursor: pointer; margin-top: 1.4rem; }
@media (max-width: 480px) { body { padding: 0 .7rem; margin: 1rem auto; } th, td { padding: .25rem .4rem; } }
"""


def write_evaluation_html(path: Path, evaluation: dict[str, Any]) -> None:
    """Write the page of what ``evaluation.json`` holds; it needs nothing else."""
    write_page(path, evaluation_page(evaluation))


def evaluation_page(evaluation: dict[str, Any]) -> str:
    """Return the page. Every text that comes from a run (names, labels, paths, notes) is escaped."""
    names = data.names(evaluation)
    title = f"Evaluation of {names[0] if len(names) == 1 else f'{len(names)} SAEs'}"
    when = str(evaluation["created"]).replace("T", " ")[:16]
    parts = [
        f"<h1>{text(title)}</h1>",
        f"<p class=quiet>Measured {text(when)} on held-out data in {evaluation['seconds']:.0f} s. "
        f"Brackets and whiskers: 95 % intervals from a bootstrap of {text(evaluation['draws'])} draws, over windows "
        f"where nothing else is said (seed {text(evaluation['seed'])}).{_SEVERAL if len(names) > 1 else ''}</p>",
        _facts(evaluation),
        _cards(evaluation),
        *(study_section(evaluation, study) for study in data.studies(evaluation)),
        comparisons(evaluation),
        _environment(evaluation),
    ]
    return page(title, parts, STYLE + _CARDS)


_SEVERAL = (
    " <b>≈</b> and a hollow dot: indistinguishable, the interval of the difference holds 0 (≈ best: none of these is "
    "surely the best). SAEs are compared window by window, so a difference may be sure where intervals overlap."
)


def _facts(evaluation: dict[str, Any]) -> str:
    saes = evaluation["saes"]
    facts = {name: _described(evaluation, name) for name in saes}
    keys = list(dict.fromkeys(key for fact in facts.values() for key in fact))
    heads = [""] + [
        f'<span class=swatch style="background:var(--c{i % 8})"></span>{text(name)}' for i, name in enumerate(saes)
    ]
    rows = [[f"<th scope=row>{text(key)}</th>", *(cell(facts[name].get(key)) for name in saes)] for key in keys]
    return table(heads, rows, "class=facts")


def _described(evaluation: dict[str, Any], name: str) -> dict[str, str]:
    one = evaluation["saes"][name]
    sae, lm, sites = one["sae"], one.get("lm"), one.get("sites")
    widths = f"{sae['d_in']} to {sae['d_sae']:,} features" + (
        f" to {sae['d_out']}" if sae.get("d_out") != sae["d_in"] else ""
    )
    facts = {
        "architecture": sae["architecture"] + (f", k {sae['k']}" if sae.get("k") else ""),
        "widths": widths,
        "language model": "none" if not lm else plain({k: v for k, v in lm.items() if v is not None}),
        "site": "none" if not sites else " to ".join(dict.fromkeys(", ".join(sites[s]) for s in ("read", "write"))),
        "mask": mask_text(one.get("mask")),
        "data": "none" if not one.get("data") else plain(one["data"]),
        "tokens measured": f"{data.tokens(evaluation, name):,}",
        **({"mind": "; ".join(one["mind"])} if one.get("mind") else {}),
        "from": one["path"] + (f" ({plain(one['source'])})" if one.get("source") else ""),
    }
    return {key: str(value) for key, value in facts.items()}


def mask_text(mask: dict[str, Any] | None) -> str:
    """Return what a mask leaves out, in words."""
    if mask is None:
        return "none: every real token counts"
    rules = [f"token ids {', '.join(map(str, mask['special_ids']))}"] if mask.get("special_ids") else []
    rules += ["a window's first position"] if mask.get("first_position") else []
    if mask.get("norm_multiple") is not None and mask.get("median_norm") is not None:
        rules.append(f"norms above {mask['norm_multiple']:g} times the median {data.short(mask['median_norm'])}")
    said = "left out: " + "; ".join(rules) if rules else "every real token counts"
    return said + (f" ({mask['from']})" if mask.get("from") else "")


def plain(value: Any) -> str:
    """Return nested settings as one line."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {plain(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", str(value))  # of a checksum enough to tell two apart


def _cards(evaluation: dict[str, Any]) -> str:
    cards = [card for study, metric in KEY if (card := _card(evaluation, study, metric))]
    return f"<h2>Key figures</h2><div class=cards>{''.join(cards)}</div>" if cards else ""


def _card(evaluation: dict[str, Any], study: str, metric: str) -> str:
    names = data.names(evaluation)
    words = data.standing(evaluation, study, metric)
    marks = [
        Mark(name, found, words.get(name, ""), i)
        for i, name in enumerate(names)
        if (found := data.figure(evaluation, name, study, metric)) is not None and found.value is not None
    ]
    if not marks:
        return ""
    start = f"<section class=card><h3>{text(metric)}</h3><p class=quiet>{text(meaning(metric))}</p>"
    if len(names) > 1:
        return start + whiskers(marks, metric) + "</section>"
    found = marks[0].figure
    return (
        f"{start}<div><span class=big>{data.short(found.value)}</span> <span class=quiet>{found.interval}</span></div>"
        + (whiskers([Mark("", found)], metric) if found.interval else "")
        + f"<p class=quiet>{found.tokens:,} tokens</p></section>"
    )


def _environment(evaluation: dict[str, Any]) -> str:
    rows = [
        [f"<th scope=row>{text(key)}</th>", f"<td class=text>{text(plain(value))}</td>"]
        for key, value in evaluation.get("environment", {}).items()
        if value is not None
    ]
    return f"<details><summary>Measured with</summary>{table(['', ''], rows)}</details>" if rows else ""

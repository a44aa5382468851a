"""Texts that were written under steering, side by side, every token shaded by the feature and open to the pointer."""

from collections.abc import Mapping, Sequence
from typing import Any

from sae_lightning.reports.evaluation_data import short
from sae_lightning.reports.page import text
from sae_lightning.reports.site.escape import visible

STYLE = """
:root { --heat: light-dark(#f5923e, #c0560c); --cold: light-dark(#5aa0e6, #2a6cb8); }
.samples table { table-layout: fixed; font-size: 14px; width: max-content; }
.samples .scroll { max-height: 85vh; }
.samples th, .samples td { vertical-align: top; white-space: normal; }
.samples thead th { width: 21rem; z-index: 2; } .samples thead th:first-child { width: 6.5rem; }
.samples th[scope=row] { position: sticky; left: 0; background: var(--head); z-index: 1; overflow-wrap: anywhere; }
.samples thead th:first-child { left: 0; z-index: 3; }
.samples td { line-height: 1.6; overflow-wrap: anywhere; }
.samples .prompt { color: var(--quiet); } .samples .end { color: var(--quiet); font-size: 12px; }
.samples i { font-style: normal; border-radius: 3px; }
.samples i[style] { background: color-mix(in oklab, var(--heat) calc(var(--a) * 75%), transparent); }
.samples i.neg[style] { background: color-mix(in oklab, var(--cold) calc(var(--a) * 75%), transparent); }
.samples i:hover { outline: 1px solid var(--quiet); }
.samples .sym { color: var(--quiet); }
.shades { display: inline-flex; align-items: center; gap: .4em; font-size: 13px; color: var(--quiet); }
.shades span { display: inline-block; width: 8rem; height: .8em; border-radius: 3px;
  background: linear-gradient(to right, transparent, color-mix(in oklab, var(--heat) 75%, transparent)); }
@media (max-width: 480px) { .samples thead th { width: 15rem; } .samples thead th:first-child { width: 4.6rem; }
  .samples table { font-size: 13px; } }
@media print { .samples table { width: 100%; } .samples thead th { width: auto; } .samples th[scope=row] {
  position: static; } .samples * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
#: Samples of one prompt that are shown; the JSON has all.
SHOWN = 2


def across(
    group: Mapping[str, Any], prompts: Sequence[str], most: Mapping[int, float], named: Mapping[str, str]
) -> str:
    """Return a table with a column a variant and a row a sample. named: what to say under a variant's name."""
    variants = group["variants"]
    heads = ["sample"] + [_head(v["name"], named.get(v["name"], "")) for v in variants]
    rows = []
    for number in range(max((len(v["samples"]) for v in variants), default=0)):
        there = [v["samples"][number] if number < len(v["samples"]) else None for v in variants]
        first = next(sample for sample in there if sample is not None)
        name = f"#{first['number'] + 1}"
        if len(prompts) > 1:
            name = f"prompt {first['prompt'] + 1} {name}"
        rows.append((name, [_cell(sample, group["features"], prompts, most) for sample in there]))
    return _table(heads, rows)


def down(group: Mapping[str, Any], prompts: Sequence[str], most: Mapping[int, float]) -> str:
    """Return a table with a row a variant and a column a sample, ``SHOWN`` of each prompt."""
    variants = _by_strength(group["variants"])
    chosen: list[tuple[int, int]] = []
    for variant in variants:
        for sample in variant["samples"]:
            if sample["number"] < SHOWN and (key := (sample["prompt"], sample["number"])) not in chosen:
                chosen.append(key)
    chosen.sort(key=lambda key: (key[1], key[0]))  # first one sample of every prompt
    heads = ["strength"] + [f"{text(visible(prompts[p]))} <span class=quiet>#{n + 1}</span>" for p, n in chosen]
    rows = []
    for variant in variants:
        at = {(sample["prompt"], sample["number"]): sample for sample in variant["samples"]}
        rows.append((variant["name"], [_cell(at.get(key), group["features"], prompts, most, False) for key in chosen]))
    return _table(heads, rows)


def shades(several: bool = False) -> str:
    """Return what the shading means. several: whether texts are about more than one feature."""
    which = "the feature nearest to its maximum" if several else "the feature"
    return (
        f"<p class=shades>0 <span></span> its maximum: activation of {which} in a reading without steering; point at a "
        "token for numbers</p>"
    )


def _by_strength(variants: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return variants with what was not pushed on top, then by strength."""
    plain = [v for v in variants if v["strength"] is None]
    return plain + sorted((v for v in variants if v["strength"] is not None), key=lambda v: v["strength"])


def _head(name: str, said: str) -> str:
    return text(name) + (f" <span class=quiet>{text(said)}</span>" if said else "")


def _table(heads: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> str:
    head = "".join(f"<th scope=col>{one}</th>" for one in heads)
    body = "\n".join(f"<tr><th scope=row>{text(name)}</th>{''.join(cells)}</tr>" for name, cells in rows)
    return f"<div class=scroll tabindex=0><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"


def _cell(
    sample: Mapping[str, Any] | None,
    features: Sequence[int],
    prompts: Sequence[str],
    most: Mapping[int, float],
    prompt: bool = True,
) -> str:
    if sample is None:
        return "<td></td>"
    start = f"<span class=prompt>{_shown(prompts[int(sample['prompt'])])}</span>" if prompt else ""
    tokens = [
        _token(piece, values, features, most, nats, logprob, kept)
        for piece, values, nats, logprob, kept in zip(
            sample["pieces"], sample["values"], sample["nats"], sample["logprobs"], sample["kept"], strict=True
        )
    ]
    end = " <span class=end>[ended]</span>" if sample["ended"] else ""
    return f"<td dir=auto>{start}{''.join(tokens)}{end}</td>"


def _token(
    piece: str,
    values: Sequence[float | None],
    features: Sequence[int],
    most: Mapping[int, float],
    nats: float | None,
    logprob: float | None,
    kept: bool,
) -> str:
    said = [] if kept else ["left out by the mask"]
    strongest = 0.0
    for feature, value in zip(features, values, strict=True):
        if value:
            share = value / most[feature] if most.get(feature) else 0.0
            said.append(f"feature {feature}: {short(value)} ({100 * share:.0f} % of its maximum)")
            strongest = max(strongest, share, key=abs)
    if logprob is not None:
        said.append(f"log p {short(logprob)}")
    if nats is not None:
        said.append(f"unsteered {short(-nats)}")
    sign = " class=neg" if strongest < 0 else ""
    shade = f' style="--a:{min(1.0, abs(strongest)):.2f}"' if strongest else ""
    return f'<i{sign}{shade} title="{text(", ".join(said))}">{_shown(piece)}</i>'


def _shown(value: str) -> str:
    """Return a text as HTML, characters that are not seen as symbols."""
    return text(visible(value)).replace("↵", "<span class=sym>↵</span>")

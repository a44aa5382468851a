"""What was read, and how: the first thing on the page."""

from collections.abc import Mapping
from typing import Any

from sae_lightning.reports.evaluation_html import mask_text, plain
from sae_lightning.reports.site.reading import Reading


def facts(reading: Reading) -> dict[str, str]:
    """Return (what: how) of an SAE's reading, as far as the store says it."""
    store, said = reading.store, reading.store.facts
    sae: Mapping[str, Any] = said.get("sae") or {}
    sites = said.get("sites")
    widths = [sae.get("d_in"), f"{store.d_sae:,} features", sae.get("d_out")]
    widths = widths[:2] if widths[2] == widths[0] else widths
    architecture = [str(sae[key]) for key in ("architecture",) if sae.get(key)]
    architecture += [f"k {sae['k']:,}"] if isinstance(sae.get("k"), int) else []
    by = sorted({one.by for said in reading.explanations.values() for one in said})
    masked = store.n_tokens - store.n_kept
    found = {
        "SAE": plain({key: sae[key] for key in ("name", "sha256") if sae.get(key)}).removeprefix("name "),
        "architecture": ", ".join(architecture),
        "widths": " to ".join(str(width) for width in widths if width is not None),
        "language model": plain(_scalars(said.get("lm"))),
        "site": " to ".join(dict.fromkeys(", ".join(sites[side]) for side in ("read", "write"))) if sites else "",
        "mask": mask_text(said.get("mask")),
        "data": plain(_scalars(said.get("data"))),
        "tokens read": f"{store.n_tokens:,} of {store.n_texts:,} texts"
        + (f"; {masked:,} of them left out by the mask ({masked / store.n_tokens:.2%})" if masked else ""),
        "activations": f"{store.nnz:,} not 0, {store.nnz / max(1, store.n_kept):.4g} a token that counts",
        "explanations": f"{len(reading.explanations):,} features, by {', '.join(by)}" if by else "",
        "store": str(store.path.name),
    }
    return {key: value for key, value in found.items() if value}


def subtitle(reading: Reading) -> str:
    """Return one line: how many features of what, read over how much."""
    store, said = reading.store, reading.store.facts
    lm = (said.get("lm") or {}).get("name")
    sites = (said.get("sites") or {}).get("write") or []
    of = f" of {', '.join(sites)}" if sites else ""
    return f"{store.d_sae:,} features{of}{f' in {lm}' if lm else ''}, read over {store.n_kept:,} tokens"


def _scalars(value: Any) -> Any:
    """Return a dict without what is longer than a line: nested settings and lists of dicts."""
    if not isinstance(value, Mapping):
        return value or {}
    return {
        key: item for key, item in value.items() if item not in (None, [], {}) and not isinstance(item, Mapping | list)
    }

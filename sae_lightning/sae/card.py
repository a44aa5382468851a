"""The model card (README.md) beside an export: what the SAE is, what it measured, how to load it, and its licence."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from sae_lightning.sae import formats
from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.formats.provenance import without_paths

#: What the hub calls the library that loads each format.
_LIBRARIES = {"dictionary_learning": "dictionary-learning"}


def model_card(
    sae: SparseAutoencoder,
    *,
    form: str = "sae_lightning",
    title: str | None = None,
    repo: str | None = None,
    license: str | None = None,
    meaning: Callable[[str], str] | None = None,
    check: str | None = None,
) -> str:
    """Return the card as Markdown with YAML front matter, from the SAE and its ``metadata`` alone.

    form: the format it lies in. repo: where it is pushed to, for the loading code. license: an identifier of the hub;
    None says that none was given. meaning: the text for a metric's name. check: what reading it back showed, in words.
    Absolute paths in the metadata are cut down to their last part.
    """
    metadata = without_paths(sae.metadata)
    lm, sites = metadata.get("lm") or {}, metadata.get("sites") or {}
    title = title or (repo or f"{sae.name} SAE").split("/")[-1]
    front: dict[str, Any] = {
        "license": license or "unknown",
        "library_name": _LIBRARIES.get(form, form),
        "tags": ["sparse-autoencoder", "mechanistic-interpretability", "interpretability", f"sae-{sae.name}"],
    }
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(lm.get("name"))):
        front["base_model"] = lm["name"]
    parts = [
        "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---",
        f"# {_text(title)}",
        _opening(sae, lm, sites),
        _table(("", ""), _facts(sae, metadata, lm, sites, license)),
        _figures(metadata.get("training") or {}, meaning),
        _recipe(sae, metadata),
        _mask(metadata.get("mask"), metadata.get("normalisation")),
        _loading(sae, form, repo, check),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _opening(sae: SparseAutoencoder, lm: Mapping[str, Any], sites: Mapping[str, Any]) -> str:
    where = f" of {_text(lm['name'])}" if lm.get("name") else ""
    if (second := (lm.get("tuned") or {}).get("name")) is not None:
        where += f" (base) and {_text(second)} (tuned)"
    read, write = (" and ".join(f"`{_text(site)}`" for site in sites.get(side) or ()) for side in ("read", "write"))
    what = read or "activations"
    if sites.get("read") != sites.get("write"):
        kind, what = "transcoder", f"{what} to {write}"
    else:
        kind = "crosscoder" if len(sites.get("write") or ()) > 1 else "sparse autoencoder"
    return f"A {kind} ({_text(sae.name)}, {sae.d_sae:,} features) on {what}{where}."


def _facts(
    sae: SparseAutoencoder,
    metadata: Mapping[str, Any],
    lm: Mapping[str, Any],
    sites: Mapping[str, Any],
    license: str | None,
) -> list[tuple[str, str]]:
    training, data = metadata.get("training") or {}, metadata.get("data") or {}
    source, second = metadata.get("source") or {}, lm.get("tuned") or {}
    rows = {
        "architecture": sae.name,
        "widths": f"d_in {sae.d_in:,}, d_sae {sae.d_sae:,}, d_out {sae.d_out:,}",
        "features a token": f"{sae.nominal_l0} by design" if sae.nominal_l0 else None,
        "language model": lm.get("name"),
        "its revision": lm.get("revision"),
        "SHA-256 of its weights": lm.get("sha256"),
        "second language model": second.get("name"),
        "the second's revision": second.get("revision"),
        "SHA-256 of the second's weights": second.get("sha256"),
        "reads": ", ".join(sites.get("read") or ()),
        "writes": ", ".join(sites.get("write") or ()),
        "widths of its sites": ", ".join(map(str, sites.get("widths_out") or ())) if sae.n_sites > 1 else None,
        "context length": data.get("context_length"),
        "training tokens": f"{training['tokens']:,}" if isinstance(training.get("tokens"), int) else None,
        "came from": " ".join(str(source[key]) for key in ("format", "version") if source.get(key)),
        "licence": license or "none was stated; ask whoever published it before using it",
    }
    return [(name, _text(value)) for name, value in rows.items() if value not in (None, "")]


def _figures(training: Mapping[str, Any], meaning: Callable[[str], str] | None) -> str:
    values = {name: v for name, v in (training.get("heldout") or {}).items() if isinstance(v, int | float)}
    if not values:
        return ""
    intervals, tokens = training.get("intervals") or {}, training.get("measured_on") or {}
    rows = []
    for name, value in values.items():
        ends = intervals.get(name)
        interval = f"{ends[0]:.4g} to {ends[1]:.4g}" if ends else "-"
        count = f"{tokens[name]:,}" if tokens.get(name) else "-"
        rows.append((f"`{_text(name)}`", f"{value:.4g}", interval, count, _text(meaning(name) if meaning else "")))
    columns = ("metric", "value", "95 % interval", "tokens", "meaning")
    if meaning is None:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    note = "On held-out data, with the mask below."
    if any(intervals.values()):
        note += " Intervals are bootstrapped over windows."
    return f"## Figures\n\n{note}\n\n{_table(columns, rows)}"


def _recipe(sae: SparseAutoencoder, metadata: Mapping[str, Any]) -> str:
    training = metadata.get("training") or {}
    recipe = {
        "options": sae.options(),
        **{key: metadata[key] for key in ("recipe", "normalisation", "seed", "data") if metadata.get(key) is not None},
        **{key: training[key] for key in ("tokens", "steps") if key in training},
    }
    return f"## Recipe\n\n```json\n{json.dumps(recipe, indent=2, ensure_ascii=False).replace('```', '')}\n```"


def _mask(mask: Mapping[str, Any] | None, normalisation: Mapping[str, Any] | None) -> str:
    lines = ["## Mask and normalisation"]
    if mask is None:
        lines.append("No mask is recorded: it is not known which tokens it was trained and measured on.")
    else:
        dropped = [f"the token ids {_text(mask['special_ids'])}"] if mask.get("special_ids") else []
        dropped += ["the first position of every window"] if mask.get("first_position") else []
        if mask.get("norm_multiple") and mask.get("median_norm"):
            limit = mask["norm_multiple"] * mask["median_norm"]
            dropped.append(f"tokens whose activation is longer than {limit:.4g}")
        what = "; ".join(dropped) or "no token"
        lines.append(f"Left out of training and of every figure: {what}. Leave the same tokens out when you use it.")
    if normalisation is not None:
        mode = normalisation.get("mode")
        done = "done by the SAE itself" if mode == "layer_norm" else "folded into the weights"
        lines.append(f"It takes and gives **raw** activations: its normalisation ({_text(mode)}) is {done}.")
    return "\n\n".join(lines)


def _loading(sae: SparseAutoencoder, form: str, repo: str | None, check: str | None) -> str:
    folder, fetch = '"FOLDER"', ""
    if repo:
        folder = "folder"
        fetch = f'from huggingface_hub import snapshot_download\n\nfolder = snapshot_download("{repo}")\n'
    own = f"from sae_lightning.sae import formats\n\nsae = formats.read({folder})\nfeatures = sae.encode(rows).dense()"
    lines = [f"## Load\n\n`rows` are activations [n, {sae.d_in}] in float32."]
    if form != "sae_lightning":
        lines.append(f"With {form}:\n\n```python\n{fetch}{formats.get(form).how_to_load(folder)}\n```")
    lines.append(f"With sae_lightning:\n\n```python\n{fetch}{own}\n```")
    others = ", ".join(name for name in formats.names() if name != form)
    command = "python -m sae_lightning.export sae=FOLDER to=FORMAT out=DIR"
    lines.append(f"In another library's format ({others}):\n\n```\n{command}\n```")
    if check:
        lines.append(f"Read back after writing: {_text(check)}.")
    return "\n\n".join(lines)


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(value: Any) -> str:
    """Return a value that can stand in a table's cell: no line breaks, no markup of its own."""
    flat = " ".join(str(value).split())
    for mark, plain in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "\\|"),
        ("`", "'"),
        ("[", "\\["),
        ("]", "\\]"),
    ):
        flat = flat.replace(mark, plain)
    return flat

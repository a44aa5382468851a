"""Names of the places in a transformer that are read and written."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from sae_lightning.core import UserError, nearest

SiteKind = Literal["resid", "mlp_out", "attn_out"]
_HOOKS: dict[str, str] = {"resid": "hook_resid_post", "mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out"}


def resolve_sites(
    kind: SiteKind | None = "resid",
    layer: int | Sequence[int] | None = None,
    *,
    names: Sequence[str] | None = None,
    n_layers: int | None = None,
) -> tuple[str, ...]:
    """Return hook names: ``blocks.{layer}.hook_resid_post`` and so on, or ``names`` as they are.

    Several layers give several sites (a crosscoder). n_layers: where known, layers are checked against it.
    Raises UserError for an unknown kind, a missing layer and a layer out of range.
    """
    if names is not None:
        if isinstance(names, str):
            names = [names]
        if not names or any(not name for name in names):
            raise UserError(
                f"sites.read={list(names)!r}: needs at least one hook name; see sites.layer for the usual ones"
            )
        return tuple(names)
    if kind not in _HOOKS:
        raise UserError(f"sites={kind!r}: must be one of {', '.join(get_args(SiteKind))}{nearest(str(kind), _HOOKS)}")
    if layer is None:
        raise UserError(f"sites.layer is not set: sites={kind} needs a layer number; or name the hooks in sites.read")
    layers = [layer] if isinstance(layer, int) else list(layer)
    for number in layers:
        if number < 0 or (n_layers is not None and number >= n_layers):
            limit = "" if n_layers is None else f" to {n_layers - 1}"
            raise UserError(f"sites.layer={number}: out of range; the language model has layers 0{limit}")
    return tuple(f"blocks.{number}.{_HOOKS[kind]}" for number in layers)


def site_layer(site: str) -> int | None:
    """Return the block a site lies in, or None for sites outside the blocks (embedding, final norm)."""
    match = re.match(r"blocks\.(\d+)\.", site)
    return int(match.group(1)) if match else None


def unknown_site(site: str, known: Iterable[str], n_layers: int) -> UserError:
    """Return the error for a site that the language model does not have, naming near ones."""
    layer = site_layer(site)
    if layer is not None and layer >= n_layers:
        return UserError(
            f"site {site!r}: layer {layer} is out of range; the language model has layers 0 to {n_layers - 1}"
        )
    names = list(known)
    # Near names of the same layer first: they differ in what is misspelt, not in a digit.
    same = [name for name in names if site_layer(name) == layer]
    near = nearest(site, same) or nearest(site, names)
    return UserError(
        f"site {site!r}: the language model has no such hook{near or '; for example blocks.0.hook_resid_post'}"
    )

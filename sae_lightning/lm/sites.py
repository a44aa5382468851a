"""Names of the places in a transformer that are read and written."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from sae_lightning.core import UserError, nearest

SiteKind = Literal["resid", "mlp_in", "mlp_out", "attn_out"]
# Not hook_mlp_in, which transformer_lens keeps empty, and which lies before the norm.
_HOOKS: dict[str, str] = {
    "resid": "hook_resid_post",
    "mlp_in": "mlp.hook_in",
    "mlp_out": "hook_mlp_out",
    "attn_out": "hook_attn_out",
}
# What tells the site of one of two models from the same one of the other (lm.pair).
MEMBERS = ("base", "tuned")
# A block by its hook name, and by the module path that Hugging Face's causal language models give it.
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_PATH = re.compile(
    r"(?:(?:model|transformer|gpt_neox|backbone|decoder|language_model)\.)*(?:layers|h|blocks)\.(\d+)(?=\.|:|$)"
)


def resolve_sites(
    kind: SiteKind | None = "resid",
    layer: int | Sequence[int] | None = None,
    *,
    names: Sequence[str] | None = None,
    n_layers: int | None = None,
) -> tuple[str, ...]:
    """Return hook names: ``blocks.{layer}.hook_resid_post`` and so on, or ``names`` as they are.

    mlp_in is what the MLP takes in, after its norm; mlp_out and attn_out are what is added to the residual stream.
    Several layers give several sites (a crosscoder). n_layers: where known, layers are checked against it.
    Raises UserError for an unknown kind, a missing layer, one out of range and one that is named twice.
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
    if not layers or len(set(layers)) < len(layers):
        raise UserError(f"sites.layers={layers}: must be different layers, at least one; name each once")
    for number in layers:
        if number < 0 or (n_layers is not None and number >= n_layers):
            limit = "" if n_layers is None else f" to {n_layers - 1}"
            raise UserError(f"sites.layer={number}: out of range; the language model has layers 0{limit}")
    return tuple(f"blocks.{number}.{_HOOKS[kind]}" for number in layers)


def member_of(site: str) -> tuple[str | None, str]:
    """Return (base or tuned, the rest) for a site of one of two models, else (None, ``site``)."""
    member, slash, rest = site.partition("/")
    return (member, rest) if slash and member in MEMBERS else (None, site)


def site_layer(site: str) -> int | None:
    """Return the block a site lies in, or None for sites outside the blocks (embedding, final norm).

    Understands hook names, the module paths of usual models (``model.layers.4.mlp``) and sites of one of two models.
    """
    rest = member_of(site)[1]
    match = _BLOCK.match(rest) or _PATH.match(rest)
    return int(match.group(1)) if match else None


def resume_site(sites: Sequence[str]) -> str | None:
    """Return the residual site from which a run that writes ``sites`` may begin; None: from the tokens.

    The one written site of the lowest layer where that is ``blocks.L.hook_resid_post`` itself, else
    ``blocks.{L-1}.hook_resid_post``; None where a site's layer is not known, for layer 0, and for sites of two models.
    """
    members = {member_of(site)[0] for site in sites}
    layers = {site: site_layer(site) for site in sites}
    known = [layer for layer in layers.values() if layer is not None]
    if not sites or len(known) < len(sites) or len(members) > 1:
        return None
    lowest = min(known)
    at_lowest = [site for site in sites if layers[site] == lowest]
    if len(at_lowest) == 1 and member_of(at_lowest[0])[1] == f"blocks.{lowest}.hook_resid_post":
        return at_lowest[0]
    prefix = f"{member}/" if (member := members.pop()) else ""
    return f"{prefix}blocks.{lowest - 1}.hook_resid_post" if lowest else None


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
    near = nearest(site, same) or nearest(site, names) or "; for example blocks.0.hook_resid_post"
    return UserError(f"site {site!r}: the language model has no such hook or module{near}")

"""Names of the same place in other libraries: sparsify's modules and dictionary_learning's submodules."""

import re

from sae_lightning.sae.formats.provenance import sites

_HOOK = re.compile(r"blocks\.(\d+)\.(hook_resid_post|hook_mlp_out|hook_attn_out)")
_MODULE = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)(?:\.(mlp|attn|self_attn|attention))?")
_SUBMODULE = re.compile(r"(resid_post|mlp_out|attn_out)_layer_(\d+)")
_OUTPUT = {None: "hook_resid_post", "mlp": "hook_mlp_out"}
_INPUT = {None: "hook_resid_pre", "mlp": "mlp.hook_in"}


def module_of(site: str) -> str | None:
    """Return sparsify's name (``layers.N``, ``layers.N.mlp``) for a hook; None where models differ in the name."""
    found = _HOOK.fullmatch(site)
    suffix = {"hook_resid_post": "", "hook_mlp_out": ".mlp"}
    return f"layers.{found[1]}{suffix[found[2]]}" if found and found[2] in suffix else None


def sites_of_module(module: object, transcode: bool) -> dict[str, list[str]] | None:
    """Return the sites of a sparsify coder on a module: its output, or what goes in and what comes out."""
    found = _MODULE.fullmatch(module) if isinstance(module, str) else None
    if not found:
        return None
    part = found[2]
    write = f"blocks.{found[1]}.{_OUTPUT.get(part, 'hook_attn_out')}"
    if not transcode:
        return sites(write)
    return sites(f"blocks.{found[1]}.{_INPUT[part]}", write) if part in _INPUT else None


def submodule_of(site: str) -> tuple[str, int] | None:
    """Return dictionary_learning's (submodule_name, layer) for a hook."""
    found = _HOOK.fullmatch(site)
    return (f"{found[2].removeprefix('hook_')}_layer_{found[1]}", int(found[1])) if found else None


def sites_of_submodule(name: object) -> dict[str, list[str]] | None:
    """Return the sites of a dictionary on a submodule of that name."""
    found = _SUBMODULE.fullmatch(name) if isinstance(name, str) else None
    return sites(f"blocks.{found[2]}.hook_{found[1]}") if found else None

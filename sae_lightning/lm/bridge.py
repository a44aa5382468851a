"""Builds TransformerBridges and knows what they wrap. The only file that imports transformer_lens."""

import logging
from typing import Any

import torch
from torch import nn

from sae_lightning.core import UserError
from sae_lightning.lm.quiet import quiet_libraries

logger = logging.getLogger(__name__)


class NoBridge(Exception):  # noqa: N818 - a way that is not there, not a failure
    """transformer_lens does not know how to wrap a model; the model may be left half wrapped."""


def native_bridge(fields: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    import transformer_lens.model_bridge.sources.native as native
    from transformer_lens.config import TransformerBridgeConfig

    quiet_libraries()
    # No tokenizer for the bridge: it would rebuild it with a BOS of its own. It only ever sees ids.
    return native.boot(TransformerBridgeConfig(**fields), device=device, dtype=dtype)


def hugging_face_bridge(model: Any, name: str) -> Any:
    """Return a bridge that wraps ``model`` in place. Raises NoBridge."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config

    # Not boot_transformers: it insists on a tokenizer and loads it anew, from the hub where it can.
    try:
        architecture = determine_architecture_from_hf_config(model.config)
        return build_bridge_from_module(model, architecture, hf_config=model.config, model_name=name)
    # What its builders raise for a model that they do not know, or know by name and not by its modules.
    except (ValueError, KeyError, TypeError, NotImplementedError, AttributeError) as error:
        raise NoBridge(str(error)) from error


def bridge_or_none(model: nn.Module, name: str, *, alone: bool) -> Any:
    """Return the bridge of a Hugging Face model; None where there is none, and the plain model will do.

    alone: there is no plain model beside it, and the bridge is needed.
    """
    try:
        return hugging_face_bridge(model, name)
    except NoBridge as error:
        kind = type(model).__name__
        if alone:  # what is left of the model is half wrapped
            raise UserError(
                f"lm.name={name!r}: transformer_lens has no bridge for a {kind} ({error}); choose another LM"
            ) from error
        logger.info("lm %s: transformer_lens has no bridge for a %s; its sites are module paths", name, kind)
        return None


def modules_at(bridge: Any, site: str) -> tuple[list[str], bool]:
    """Return (paths, whether its input is meant) of the Hugging Face module whose input or output ``site`` is.

    The paths are those under which the module may lie in the model as it was before the bridge wrapped it; none for
    hooks inside a module's own arithmetic (attention patterns, rotated keys, norm scales).
    """
    point = bridge.hook_dict.get(site)
    # Some components lie both where the bridge calls them (attn.o) and, as what they wrap, where they were (c_proj).
    modules = list(bridge.original_model.named_modules(remove_duplicate=False))
    for _, module in modules:
        hooks = vars(module).get("_modules", {})
        for name in ("hook_in", "hook_out"):
            if point is not None and hooks.get(name) is point:
                wrapped = hooks.get("_original_component")
                paths = [path for path, other in modules if other is module or other is wrapped]
                return [path.replace("._original_component", "") for path in paths], name == "hook_in"
    return [], False


def paths_of(bridge: Any) -> dict[str, nn.Module]:
    """Return the modules of a bridge's model by the paths that they had before it wrapped them."""
    out: dict[str, nn.Module] = {}
    for path, module in bridge.original_model.named_modules(remove_duplicate=False):
        parts = [part for part in path.split(".") if part != "_original_component"]
        # The wrapper comes before what it wraps; its hook points are no modules of the model.
        if not any(part.startswith("hook_") for part in parts):
            out.setdefault(".".join(parts), module)
    return out

"""Hook names of a model that transformer_lens does not know, as far as its modules tell them."""

import torch
from torch import Tensor, nn

from sae_lightning.lm.agreement import tolerance
from sae_lightning.lm.modules import hook_module

# (path, whether the module's input is meant) by site.
Names = dict[str, tuple[str, bool]]

_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "feed_forward", "ffn")


def outline(model: nn.Module, n_layers: int) -> Names:
    """Return the places in ``model`` that have usual names: residual sites, what MLP and attention take in and give.

    The blocks are the list of ``n_layers`` modules that lies nearest to the top; none, no names.
    """
    lists = [p for p, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers > 0]
    if not lists:
        return {}
    blocks = min(lists, key=lambda path: (path.count("."), path))
    out: Names = {}
    for layer in range(n_layers):
        path = f"{blocks}.{layer}"
        children = dict(model.get_submodule(path).named_children())
        for name, at_input in (("hook_resid_pre", True), ("hook_resid_post", False)):
            out[f"blocks.{layer}.{name}"] = (path, at_input)
        for part, usual in (("attn", _ATTENTION), ("mlp", _MLP)):
            child = next((name for name in usual if name in children), None)
            if child is not None:
                out[f"blocks.{layer}.{part}.hook_in"] = (f"{path}.{child}", True)
                out[f"blocks.{layer}.{part}.hook_out"] = (f"{path}.{child}", False)
                out[f"blocks.{layer}.hook_{part}_out"] = (f"{path}.{child}", False)
    return out


def checked(model: nn.Module, names: Names, tokens: Tensor) -> Names:
    """Return ``names`` without those that promise too much.

    ``hook_attn_out`` and ``hook_mlp_out`` are what is added to the residual stream. Where block, attention and MLP do
    not add up on ``tokens`` [b, p] (a norm behind them, a factor), the modules' outputs are something else.
    """
    values: dict[str, Tensor] = {}
    handles = [
        hook_module(model.get_submodule(path), before, site, lambda value, site=site: values.update({site: value}))
        for site, (path, before) in names.items()
    ]
    try:
        with torch.no_grad():
            model(input_ids=tokens, use_cache=False)
    except TypeError:  # a block that deals in something else
        return {}
    finally:
        for handle in handles:
            handle.remove()
    wrong: set[str] = set()
    for layer in {site.split(".")[1] for site in names}:
        added = [f"blocks.{layer}.hook_attn_out", f"blocks.{layer}.hook_mlp_out"]
        wanted = [f"blocks.{layer}.hook_resid_pre", f"blocks.{layer}.hook_resid_post", *added]
        if not all(site in values for site in wanted):
            wrong.update(added)
            continue
        before, after, attn, mlp = (values[site].float().to("cpu") for site in wanted)
        off = (after - before - attn - mlp).norm() / (after - before).norm()
        if not off <= tolerance(values[wanted[1]].dtype, tokens.device):
            wrong.update(added)
    return {site: place for site, place in names.items() if site not in wrong}

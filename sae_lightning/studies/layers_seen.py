"""Of which MLPs does the activation at a site have the output in it? As far as its name tells."""

import re

from sae_lightning.lm.sites import site_layer

# Paths inside a block; what a module takes in stands behind a colon.
_MLP = r"(?:mlp|feed_forward|ffn|block_sparse_moe)(?:\.(?:experts(?:\.\d+)?|shared_experts?))?"
_ATTENTION = r"(?:attn|self_attn|attention|self_attention|linear_attn|cross_attn)"
_NORM = r"(?:layer_?norm|norm|ln)"
# What lies behind the neurons of the block's own MLP: they are in it.
_BEHIND = (
    r"|hook_resid_post|hook_out|hook_mlp_out",  # the block itself among them
    rf"{_MLP}(?:\.hook_out|\.hook_post)?",
    # What its down-projection reads and gives, and what comes after it. (w2 of Qwen's mlp is an up-projection.)
    rf"{_MLP}\.(?:out|down_proj|c_proj|fc_out|fc_?2|dense_4h_to_h|wo|lin(?:ear)?_?2|proj_out|dropout)(?:[.:].*)?",
    r"(?:feed_forward|ffn|(?:\w+\.)*experts\.\d+)\.w2(?:[.:].*)?",
    r"(?:fc2|down_proj)(?:[.:].*)?",  # of blocks without a module for their MLP
    # Norms and dropout between the MLP and the residual stream.
    rf"(?:ln2_post|post_(?:mlp|feed_?forward|ffn?)_?(?:{_NORM}|dropout)(?:_\d)?|(?:mlp|feed_?forward|ffn)_post_?{_NORM})"
    r"(?:[.:].*)?",
)
# What lies before them.
_BEFORE = (
    r":in|hook_in|hook_resid_(?:pre|mid)|hook_(?:attn|mlp)_in|hook_attn_out|hook_[qkv]_input",
    rf"{_ATTENTION}(?:[.:].*)?",
    r"(?:ln_?[12]|ln1_post|norm_?[12])(?:[.:].*)?",
    r"(?:input|post_attention|pre_feed_?forward|pre_mlp|post_self_attn)_(?:layernorm|norm|dropout)(?:_\d)?(?:[.:].*)?",
    r"(?:attention|attn|ffn)_norm(?:[.:].*)?",
    rf"{_MLP}(?::in|\.hook_in|\.hook_pre(?:_linear)?)",
    rf"{_MLP}\.(?:in|gate|router|gate_proj|up_proj|gate_up_proj|c_fc|fc_in|fc_?1|dense_h_to_4h|lin(?:ear)?_?1)(?:[.:].*)?",
    r"(?:feed_forward|ffn|(?:\w+\.)*experts\.\d+)\.w[13](?:[.:].*)?",
    r"fc1(?:[.:].*)?",
)
# Outside the blocks: before the first, and behind the last.
_FIRST = r"(?:.*\.)?(?:\w*embed\w*|\w*emb|wte|wpe|pos|drop|emb_dropout)(?:[.:].*)?"
_LAST = (
    r"(?:.*\.)?(?:(?:hook_)?unembed|lm_head|embed_out|head)(?:[.:].*)?",
    r"(?:.*\.)?(?:ln_final|ln_out|ln_f|norm|norm_f|final_(?:layer_?)?norm)(?:[.:].*)?",
)


def layers_seen(site: str, n_layers: int) -> int:
    """Return of how many MLPs, from the first, the activation at ``site`` has the output, or the neurons, in it.

    ``blocks.9.hook_resid_post`` 10, ``blocks.9.hook_resid_pre``, ``blocks.9.mlp.hook_in`` and
    ``blocks.9.hook_attn_out`` 9; module paths likewise (``model.layers.9`` 10, ``model.layers.9:in`` 9). Outside the
    blocks: 0 for embeddings, else all. A site that is not known counts as one before its block's MLP, see ``guess``.
    """
    layer = site_layer(site)
    if layer is None:
        return 0 if _in(site, _FIRST) and not _in(site, *_LAST) else n_layers
    return layer + _in(_rest(site, layer), *_BEHIND)


def guess(site: str, n_layers: int) -> str | None:
    """Return what ``layers_seen`` takes for granted of a site whose name it does not know, None where it does."""
    layer = site_layer(site)
    if layer is None:
        if _in(site, _FIRST, *_LAST):
            return None
        return f"{site} is not known: taken to lie behind all blocks, so that it sees layers 0 to {n_layers - 1}"
    if _in(_rest(site, layer), *_BEHIND, *_BEFORE):
        return None
    seen = f"layers 0 to {layer - 1}" if layer > 1 else "layer 0" if layer else "none"
    return f"{site} is not known: taken to lie before the MLP of its block, so that it sees {seen}"


def _rest(site: str, layer: int) -> str:
    """Return what follows the block in a site's name."""
    return re.split(rf"\b{layer}(?=\.|:|$)", site, maxsplit=1)[1].removeprefix(".")


def _in(name: str, *kinds: str) -> bool:
    return any(re.fullmatch(kind, name) for kind in kinds)

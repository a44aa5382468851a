"""SAEs that a format can and can't hold, shared with the tests against the libraries themselves."""

import torch

from sae_lightning.activations.normalise import Normaliser
from sae_lightning.sae import SparseAutoencoder, fold
from tests.sae.naive_sae import build

D, F = 12, 40
RESID = "blocks.3.hook_resid_post"
SITES = {"read": [RESID], "write": [RESID]}
CROSS = {"read": ["blocks.3.mlp.hook_in"], "write": ["blocks.3.hook_mlp_out"]}


def rows(n: int = 300, d: int = D, *, seed: int = 3, shift: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    offset = torch.randn(d, generator=generator)
    return torch.randn(n, d, generator=generator) + shift * offset * (d**0.5 / offset.norm())


def make(name: str, *, sites: dict | None = None, folded: bool = False, **options) -> SparseAutoencoder:
    """An SAE in eval mode whose every parameter is random, with metadata as a run writes it."""
    sae = build(name, **({"d_in": D, "d_sae": F} | options))
    x = rows(d=sae.d_in)
    if hasattr(sae, "threshold"):
        sae.calibrate_threshold([x], 4.0)
    sae.eval()
    if folded:
        sae = fold(sae, Normaliser.fit(x, "sqrt_d", True))
    sae.metadata = {
        "sites": SITES if sites is None else sites,
        "lm": {"name": "gpt2", "revision": "main", "sha256": "0" * 64, "tokenizer_hash": "1" * 64},
        "mask": {"special_ids": [50256], "first_position": True, "norm_limit": 12.5},
        "data": {"windows": {"source": "news"}, "context_length": 128},
        "training": {"tokens": 1000, "steps": 10, "heldout": {"fvu": 0.25, "l0": 4.0, "ce_clean": None}},
    }
    return sae


_ALL = {
    "standard": {"name": "standard"},
    "standard folded": {"name": "standard", "folded": True},
    "standard no b_dec": {"name": "standard", "subtract_b_dec": False},
    "standard rescaled": {"name": "standard", "rescale_acts_by_decoder_norm": True},
    "jumprelu": {"name": "jumprelu"},
    "jumprelu folded": {"name": "jumprelu", "folded": True},
    "gated": {"name": "gated"},
    "gated no b_dec": {"name": "gated", "subtract_b_dec": False},
    "topk": {"name": "topk"},
    "topk rescaled": {"name": "topk", "rescale_acts_by_decoder_norm": True},
    "topk no b_dec": {"name": "topk", "subtract_b_dec": False},
    "batch_topk": {"name": "batch_topk"},
    "batch_topk rescaled": {"name": "batch_topk", "rescale_acts_by_decoder_norm": True},
    "matryoshka": {"name": "matryoshka", "folded": True},
}
_SKIPS = {
    "transcoder": {"name": "standard", "sites": CROSS, "d_out": 7},
    "transcoder same width": {"name": "standard", "sites": CROSS},
    "skip transcoder": {"name": "standard", "sites": CROSS, "skip": True},
    "jumprelu transcoder": {"name": "jumprelu", "sites": CROSS, "d_out": 7},
    "jumprelu skip transcoder": {"name": "batch_topk", "sites": CROSS, "d_out": 7, "skip": True},
    "matryoshka transcoder": {"name": "matryoshka", "sites": CROSS, "skip": True},
}
_SPARSIFY = {
    **{name: options for name, options in _ALL.items() if options["name"] == "topk"},
    "groupmax": {"name": "topk", "selection": "group_max"},
    "skip": {"name": "topk", "skip": True},
    "transcoder": {"name": "topk", "sites": CROSS},
    "skip transcoder": {"name": "topk", "sites": CROSS, "skip": True, "rescale_acts_by_decoder_norm": True},
}
# What each format holds, by the name of the case.
HELD: dict[str, dict[str, dict]] = {
    "saelens": {**_ALL, **_SKIPS, "abs_topk": {"name": "topk", "selection": "abs_topk"}},
    "sparsify": _SPARSIFY,
    "dictionary_learning": _ALL,
    "sae_lightning": {**_ALL, **_SKIPS, **_SPARSIFY, "layer norm": {"name": "topk", "layer_norm": True}},
}
_TWO = {"read": ["a", "b"], "write": ["a", "b"]}
# What each format has to refuse, and words of the reason.
REFUSED: dict[str, list[tuple[dict, str]]] = {
    "saelens": [
        ({"name": "topk", "layer_norm": True}, "unbiased"),
        ({"name": "standard", "negative_slope": 0.1}, "LeakyReLU"),
        ({"name": "topk", "selection": "group_max"}, "group_max"),
        ({"name": "topk", "sites": CROSS}, "transcoders with ReLU and JumpReLU only"),
        ({"name": "gated", "d_out": 7}, "transcoders with ReLU and JumpReLU only"),
        ({"name": "standard", "sites": _TWO}, "several sites"),
    ],
    "sparsify": [
        *[({"name": name}, "top-k and GroupMax only") for name in ("standard", "jumprelu", "gated", "batch_topk")],
        ({"name": "matryoshka"}, "top-k and GroupMax only"),
        ({"name": "topk", "selection": "abs_topk"}, "negative"),
        ({"name": "topk", "d_out": 7}, "d_out=7"),
        ({"name": "topk", "layer_norm": True}, "layer norm"),
        ({"name": "topk", "sites": _TWO}, "several sites"),
    ],
    "dictionary_learning": [
        ({"name": "standard", "skip": True}, "skip path"),
        ({"name": "standard", "d_out": 7}, "d_out=7"),
        ({"name": "topk", "selection": "abs_topk"}, "abs_topk"),
        ({"name": "topk", "selection": "group_max"}, "group_max"),
        ({"name": "standard", "negative_slope": 0.1}, "LeakyReLU"),
        ({"name": "gated", "layer_norm": True}, "layer norm"),
        ({"name": "standard", "sites": _TWO}, "several sites"),
    ],
}

"""What each library is asked to train (see peer/), and the site that its files then name."""

_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
TRAINED = {
    "saelens": (
        *("standard", "gated", "topk", "abstopk", "batchtopk", "matryoshka_batchtopk", "jumprelu"),
        *_TRANSCODERS,
    ),
    "sparsify": ("topk", "groupmax", "skip", "transcode", "transcode_skip", "expansion"),
    "dictionary_learning": (
        *("standard", "april", "gated", "jumprelu", "topk", "batchtopk", "batchtopk_unset", "matryoshka"),
    ),
}
_RESID = ["blocks.3.hook_resid_post"]
SITES_READ: dict[object, list[str] | None] = {"saelens": _RESID, "sparsify": None, "dictionary_learning": _RESID}
SITES_READ |= {("saelens", kind): ["blocks.3.mlp.hook_in"] for kind in _TRANSCODERS}

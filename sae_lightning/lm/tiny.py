"""A random transformer of a few thousand weights over bytes: the whole pipeline in a second, for tests."""

from typing import Any

from sae_lightning.core import UserError, derive_seed, nearest

TINY_DEFAULTS: dict[str, int] = {"d_model": 32, "n_layers": 3, "n_heads": 4, "n_ctx": 64}
BYTE_VOCABULARY = 257


def tiny_config(seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a TransformerBridgeConfig: pre-norm blocks with GELU, learned positions, d_mlp = 4 d_model.

    options may set d_model, n_layers, n_heads, n_ctx. The vocabulary is that of ``tokens.tokenizer.byte_tokenizer``:
    256 bytes and ``<|endoftext|>``. The same seed gives the same weights; the global RNG is neither read nor moved.
    """
    for key, value in options.items():
        if key not in TINY_DEFAULTS:
            raise UserError(
                f"lm.{key}: lm=tiny has no such option, only {', '.join(TINY_DEFAULTS)}{nearest(key, TINY_DEFAULTS)}"
            )
        if not isinstance(value, int) or value < 1:
            raise UserError(f"lm.{key}={value!r}: must be a whole number of at least 1")
    chosen = {**TINY_DEFAULTS, **options}
    if chosen["d_model"] % chosen["n_heads"]:
        raise UserError(
            f"lm.d_model={chosen['d_model']}: must be a multiple of lm.n_heads={chosen['n_heads']}; change one of them"
        )
    return {
        **chosen,
        "d_head": chosen["d_model"] // chosen["n_heads"],
        "d_mlp": 4 * chosen["d_model"],
        "d_vocab": BYTE_VOCABULARY,
        "act_fn": "gelu",
        "normalization_type": "LN",
        "seed": derive_seed(seed, "lm", "tiny") % 2**32,
    }

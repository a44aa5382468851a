"""Builds TransformerBridges and starts them midway. The only file that imports transformer_lens."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.lm.quiet import quiet_libraries


def native_bridge(fields: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    import transformer_lens.model_bridge.sources.native as native
    from transformer_lens.config import TransformerBridgeConfig

    quiet_libraries()
    # No tokenizer for the bridge: it would rebuild it with a BOS of its own. It only ever sees ids.
    return native.boot(TransformerBridgeConfig(**fields), device=device, dtype=dtype)


def hugging_face_bridge(model: Any, name: str) -> Any:
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config

    # Not boot_transformers: it insists on a tokenizer and loads it anew, from the hub where it can.
    try:
        architecture = determine_architecture_from_hf_config(model.config)
        return build_bridge_from_module(model, architecture, hf_config=model.config, model_name=name)
    # What its builders raise for a model that they do not know, or know by name and not by its modules.
    except (ValueError, KeyError, NotImplementedError, AttributeError) as error:
        kind = type(model).__name__
        raise UserError(
            f"lm.name={name!r}: transformer_lens has no bridge for a {kind} ({error}); choose another LM"
        ) from error


def context_length(bridge: Any) -> int:
    config = getattr(bridge.original_model, "config", None)
    for field in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        if isinstance(value := getattr(config, field, None), int):
            return value
    return int(bridge.cfg.n_ctx)


def vocabulary_rows(bridge: Any) -> int:
    embedding = getattr(bridge.original_model, "get_input_embeddings", None)
    if embedding is None:
        return int(bridge.cfg.d_vocab)
    return int(embedding().weight.shape[0])


def check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"lm.device={device!r}: not a device; use cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"lm.device={device!r}: this machine has no usable CUDA device; use lm.device=cpu")


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


def blocks_give_tuples(bridge: Any, tokens: Tensor) -> bool:
    """Whether the model's blocks return (hidden, ...) rather than hidden; runs ``tokens`` once to see."""
    kinds: list[bool] = []
    handle = bridge.blocks[0].register_forward_hook(lambda _m, _a, out: kinds.append(isinstance(out, tuple)))
    try:
        with torch.no_grad():
            bridge(tokens, use_cache=False)
    finally:
        handle.remove()
    return kinds[0]


@contextlib.contextmanager
def starting_at(bridge: Any, layer: int, clean: Tensor, as_tuple: bool) -> Iterator[None]:
    """Let block ``layer`` give ``clean`` [b, p, d_model] and the blocks below pass on what they get.

    The bridge's own ``start_at_layer`` runs the lower blocks and throws their output away, and can't start above the
    last block. as_tuple: whether the model's blocks return (hidden,) rather than hidden.
    """
    blocks = [bridge.blocks[i] for i in range(layer + 1)]

    def pass_on(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden,) if as_tuple else hidden

    def inject(*args: Any, **kwargs: Any) -> Any:
        hooked = blocks[layer].hook_out(clean)
        return (hooked,) if as_tuple else hooked

    try:
        for block in blocks:
            # Past the bridge's __setattr__, which would hand the attribute on to the wrapped module.
            object.__setattr__(block, "forward", inject if block is blocks[layer] else pass_on)
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)

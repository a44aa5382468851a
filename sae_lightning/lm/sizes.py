"""Sizes of a language model, from its config and its modules."""

from typing import Any

import torch
from torch import nn


def text_config(model: nn.Module) -> Any:
    """Return the part of a Hugging Face config that concerns text; None for a model without one."""
    config = getattr(model, "config", None)
    found = getattr(config, "get_text_config", None)
    return config if found is None else found()


def first_int(config: Any, names: tuple[str, ...], default: int) -> int:
    """Return the first of these fields that is a whole number."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), default)


def width(model: nn.Module, default: int = 0) -> int:
    """Return the width of the residual stream."""
    return first_int(text_config(model), ("hidden_size", "n_embd", "d_model", "dim"), default)


def depth(model: nn.Module, default: int = 0) -> int:
    """Return the number of blocks."""
    return first_int(text_config(model), ("num_hidden_layers", "n_layer", "num_layers", "n_layers"), default)


def context_length(model: nn.Module, default: int) -> int:
    """Return how many positions the model reads at most; ``default`` where nothing bounds them."""
    fields = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")
    return first_int(text_config(model), fields, default)


def vocabulary_rows(model: nn.Module, default: int) -> int:
    """Return how many ids the model embeds."""
    embedding = getattr(model, "get_input_embeddings", None)
    return default if embedding is None else int(embedding().weight.shape[0])


def entry_device(model: nn.Module) -> torch.device:
    """Return the device that tokens go to: where the embedding is, or is brought to when it runs."""
    embedding = getattr(model, "get_input_embeddings", None)
    module = model if embedding is None else embedding()
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", [hook]):  # accelerate's, of a model that lies on several devices
        if (device := getattr(one, "execution_device", None)) is not None:
            return torch.device(device)
    return next(module.parameters()).device

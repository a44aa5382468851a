"""Small random Hugging Face models whose attention looks at something: weights are larger than at a usual start."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sae_lightning.lm import FrozenLM
from sae_lightning.lm.bridge import hugging_face_bridge
from sae_lightning.lm.plain import plain_twin
from sae_lightning.tokens import byte_tokenizer

KINDS = ("llama", "gpt2", "gemma2", "mistral", "neox")
# Known to Hugging Face and not to transformer_lens; persimmon has a norm per head, biogpt no module for its MLP.
UNKNOWN = ("helium", "persimmon", "biogpt")


def random_model(kind: str, seed: int = 0) -> nn.Module:
    """Return a model of 3 layers of width 32 with 300 tokens and 64 positions, eager as ``lm.hub`` loads them.

    mistral and gemma2 look back 8 positions (gemma2 in every other layer), gemma2 caps its attention scores.
    """
    import transformers as hf

    common: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 300,
        "max_position_embeddings": 64,
        "attn_implementation": "eager",
    }
    torch.manual_seed(seed)
    if kind == "llama":
        model = hf.LlamaForCausalLM(hf.LlamaConfig(num_key_value_heads=2, **common))
    elif kind == "mistral":
        model = hf.MistralForCausalLM(hf.MistralConfig(num_key_value_heads=2, sliding_window=8, **common))
    elif kind == "gemma2":
        config = hf.Gemma2Config(
            num_key_value_heads=2, head_dim=8, sliding_window=8, query_pre_attn_scalar=8, **common
        )  # fmt: skip
        config.attn_logit_softcapping = 2.0
        model = hf.Gemma2ForCausalLM(config)
    elif kind == "helium":
        model = hf.HeliumForCausalLM(hf.HeliumConfig(num_key_value_heads=4, head_dim=8, **common))
    elif kind == "persimmon":
        model = hf.PersimmonForCausalLM(hf.PersimmonConfig(**common))
    elif kind == "biogpt":
        model = hf.BioGptForCausalLM(hf.BioGptConfig(**common))
    elif kind == "neox":
        model = hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**common))
    else:
        config = hf.GPT2Config(
            n_embd=32, n_layer=3, n_head=4, n_positions=64, vocab_size=300, attn_implementation="eager"
        )  # fmt: skip
        model = hf.GPT2LMHeadModel(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data.mul_(6)
    return model.eval()


def save(model: nn.Module, folder: Path) -> str:
    """Write a model and the byte tokenizer as a Hugging Face folder; return its path."""
    model.save_pretrained(folder)  # pyright: ignore[reportCallIssue] - of PreTrainedModel
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def with_twin(kind: str, dtype: torch.dtype = torch.float32) -> tuple[FrozenLM, nn.Module]:
    """Return a model as ``FrozenLM.load`` makes it, and its plain twin."""
    model = random_model(kind).to(dtype)
    twin = plain_twin(model, kind)
    assert twin is not None
    return FrozenLM(hugging_face_bridge(model, kind), byte_tokenizer(), name=kind, twin=twin), twin

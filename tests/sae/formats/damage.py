"""How tests damage files of the formats, and what they expect to be told."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_lightning.core import UserError
from sae_lightning.sae import formats

WEIGHTS = {
    "saelens": ("cfg.json", "sae_weights.safetensors", "W_enc"),
    "sparsify": ("cfg.json", "sae.safetensors", "encoder.weight"),
    "dictionary_learning": ("config.json", "ae.pt", "encoder.weight"),
}


def fails(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        formats.read(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert len(message) < 700


def load(file: Path) -> dict:
    return load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)


def save(file: Path, tensors: dict) -> None:
    if file.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file)


def edit(file: Path, change) -> None:
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))

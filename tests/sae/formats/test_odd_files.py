"""Every key and every tensor of other libraries' files, replaced by what has no place there: one line or an SAE."""

import json
import random
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.sae import formats
from sae_lightning.sae.card import model_card
from tests.sae.formats.cases import make

CASES = [
    *[("saelens", name) for name in ("standard", "topk", "jumprelu", "gated")],
    ("sparsify", "topk"),
    *[("dictionary_learning", name) for name in ("standard", "topk", "batch_topk", "matryoshka", "jumprelu", "gated")],
    ("sae_lightning", "matryoshka"),
]
VALUES: list[Any] = [["topk"], [], {"a": [1]}, "false", None, -3, 2.5, 10**30, True, False]
OLD = {"d_in": 12, "d_sae": 40, "hook_point": "blocks.3.hook_resid_post", "model_name": "gpt2", "context_size": 64}
OLD |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "finetuning_scaling_factor": False}


def one_line_or_an_sae(folder: Path, what: object) -> None:
    """Read, and use what was read as later code does: nothing but UserError may come out."""
    try:
        sae = formats.read(folder)
        model_card(sae)
    except UserError:
        return
    except Exception as error:
        raise AssertionError(f"{what}: {error!r}") from error


def keys(config: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in config.items() if isinstance(config, dict) else ():
        yield (*above, key)
        yield from keys(value, (*above, key))


def replaced(config: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(config))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


@pytest.mark.parametrize(("form", "name"), [*CASES, ("saelens", "old")])
def test_every_key_of_a_config(form: str, name: str, tmp_path: Path) -> None:
    folder = formats.write(form, make("topk" if name == "old" else name), tmp_path / "sae")
    file = next(folder.glob("*.json"))
    config = OLD if name == "old" else json.loads(file.read_text())
    for path in keys(config):
        for value in VALUES:
            file.write_text(json.dumps(replaced(config, path, value)))
            one_line_or_an_sae(folder, (path, value))


def odd_tensors(tensor: Tensor) -> Iterator[Tensor]:
    yield tensor.int()
    yield tensor.bool()
    yield tensor.to(torch.complex64)
    yield tensor.double() + 0.5
    yield tensor[None]
    yield torch.zeros(())
    yield torch.zeros(0)
    yield torch.zeros(3, 5, 2)
    yield torch.full_like(tensor, -7)
    yield torch.full_like(tensor.float(), float("nan"))
    yield torch.full_like(tensor.float(), 3e38)


@pytest.mark.parametrize(("form", "name"), [case for case in CASES if case[0] != "sae_lightning"])
def test_every_tensor(form: str, name: str, tmp_path: Path) -> None:
    folder = formats.write(form, make(name), tmp_path / "sae")
    file = next(p for p in folder.iterdir() if p.suffix in (".safetensors", ".pt"))
    pickled = file.suffix == ".pt"
    tensors = torch.load(file, weights_only=True) if pickled else load_file(file)

    def put(changed: dict[str, Tensor]) -> None:
        torch.save(changed, file) if pickled else save_file(changed, file)

    for key, tensor in tensors.items():
        put({other: value for other, value in tensors.items() if other != key})
        # k stands in the config too, and top-k does without a threshold.
        spare = form == "dictionary_learning" and (key == "k" or (key, name) == ("threshold", "topk"))
        with nullcontext() if spare else pytest.raises(UserError, match=r"missing|may be|no known class"):
            formats.read(folder)
        for i, odd in enumerate(odd_tensors(tensor)):
            put({**tensors, key: odd.contiguous()})
            one_line_or_an_sae(folder, (key, i))


@pytest.mark.parametrize(("form", "name"), [("saelens", "topk"), ("dictionary_learning", "topk")])
def test_flipped_bytes(form: str, name: str, tmp_path: Path) -> None:
    folder = formats.write(form, make(name), tmp_path / "sae")
    file = next(p for p in folder.iterdir() if p.suffix in (".safetensors", ".pt"))
    data, chance = file.read_bytes(), random.Random(0)
    for trial in range(100):
        torn = bytearray(data)
        for _ in range(3):
            torn[chance.randrange(min(len(torn), 1500))] = chance.randrange(256)
        file.write_bytes(torn)
        one_line_or_an_sae(folder, trial)

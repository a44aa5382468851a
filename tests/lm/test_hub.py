import time

import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.lm import FrozenLM
from sae_lightning.lm.weights import folder_sha256
from sae_lightning.tokens import byte_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama with a byte tokenizer, as a user may have it on disk."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=257,
        max_position_embeddings=128,
    )
    path = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAE_LIGHTNING_CACHE", str(tmp_path / "cache"))


def test_a_local_folder_loads_without_network(folder):
    lm = FrozenLM.load(str(folder), dtype="float32")
    assert (lm.d_model, lm.n_layers, lm.n_ctx, lm.vocab_size) == (32, 2, 128, 257)
    identity = lm.identity()
    assert identity["sha256"] == folder_sha256(folder)
    assert identity == FrozenLM.load(str(folder), dtype="bfloat16").identity(), "weights on disk, whatever the dtype"


def test_the_remembered_hash_follows_the_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = folder_sha256(tmp_path)
    assert folder_sha256(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"three")
    assert folder_sha256(tmp_path) != first


def test_folder_mistakes_are_one_line(folder, tmp_path):
    with pytest.raises(UserError, match=r"no config\.json.*lm=smollm2"):
        FrozenLM.load(str(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        FrozenLM.load("/no/such/folder")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match="tokenizer can't be loaded"):
        FrozenLM.load(str(tmp_path))
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="weights can't be loaded"):
        FrozenLM.load(str(tmp_path))


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="ids up to 257, but the embedding has 257 rows"):
        FrozenLM.load(str(tmp_path))


def test_an_unknown_hub_name_without_network_fails_soon(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(UserError, match=r"can't be reached.*lm=smollm2"):
        FrozenLM.load("nobody/no-such-model")
    assert time.monotonic() - start < 10
    with pytest.raises(UserError, match="neither a folder nor a hub name"):
        FrozenLM.load("a/b/c d")

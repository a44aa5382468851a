"""A lazy language model: the same model, and no model at all until something goes through it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.lm import FrozenLM, LazyLM
from sae_lightning.tokens import byte_tokenizer

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAE_LIGHTNING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_knows_the_model_without_loading_it() -> None:
    first = LazyLM("tiny", dtype="float32", seed=3)
    assert first.loaded  # nothing was known of it yet
    assert first.site_width(SITE) == 32
    again, plain = LazyLM("tiny", dtype="float32", seed=3), FrozenLM.load("tiny", dtype="float32", seed=3)
    assert again.identity() == plain.identity()
    known = ("name", "revision", "d_model", "n_layers", "n_ctx", "vocab_size", "separator_id", "bos_id", "special_ids")
    for attribute in (*known, "device", "dtype"):
        assert getattr(again, attribute) == getattr(plain, attribute), attribute
    assert again.n_bytes() == plain.n_bytes()
    again.check_site(SITE)
    assert not again.loaded


def test_it_loads_itself_when_something_goes_through_it_and_counts_that() -> None:
    LazyLM("tiny", dtype="float32").site_width(SITE)
    lm, plain = LazyLM("tiny", dtype="float32"), FrozenLM.load("tiny", dtype="float32")
    tokens = torch.arange(24).reshape(3, 8)
    assert lm.windows_read == 0
    assert torch.equal(lm.activations(tokens, [SITE])[SITE], plain.activations(tokens, [SITE])[SITE])
    assert lm.loaded
    assert torch.equal(lm.logits(tokens), plain.logits(tokens))
    assert lm.windows_read == plain.windows_read == 6


def test_what_a_user_gets_wrong_is_said_as_ever() -> None:
    LazyLM("tiny")
    lm = LazyLM("tiny")
    with pytest.raises(UserError, match="hook_resid_post"):
        lm.check_site("blocks.1.hook_resid_pots")
    with pytest.raises(UserError, match="no such folder"):
        LazyLM("/nowhere/at/all")
    with pytest.raises(UserError, match="CUDA"):
        LazyLM("tiny", device="cuda") if not torch.cuda.is_available() else pytest.skip("there is a GPU")


def test_other_options_and_seeds_are_other_models(own_cache: Path) -> None:
    names = {
        LazyLM("tiny", seed=seed, **options).identity()["sha256"]
        for seed in (0, 1)
        for options in ({}, {"n_layers": 2})
    }
    assert len(names) == 4
    assert len(list((own_cache / "lm" / "cards").glob("*.json"))) == 4


def test_a_card_that_cannot_be_read_is_made_again(own_cache: Path) -> None:
    before = LazyLM("tiny").identity()
    (card,) = (own_cache / "lm" / "cards").glob("*.json")
    card.write_text("{")
    again = LazyLM("tiny")
    assert again.loaded
    assert again.identity() == before
    assert json.loads(card.read_text())["sha256"] == before["sha256"]


def test_other_weights_in_the_same_folder_are_noticed(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    def save(seed: int) -> str:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=257, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
        byte_tokenizer().save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    first = LazyLM(save(0), dtype="float32").identity()
    assert not LazyLM(str(tmp_path / "model"), dtype="float32").loaded
    assert LazyLM(save(1), dtype="float32").identity()["sha256"] != first["sha256"]


@pytest.mark.lm
def test_a_known_model_costs_no_import_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAE_LIGHTNING_CACHE")
    LazyLM("smollm2").site_width("blocks.9.hook_resid_post")
    code = (
        "import sys; from sae_lightning.lm import LazyLM; lm = LazyLM('smollm2'); "
        "assert lm.site_width('blocks.9.hook_resid_post') == 576 and not lm.loaded; "
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Mistakes about sites, as a user makes them: one line that names value, rule and remedy, exit code 2."""

from pathlib import Path

import numpy as np
import pytest

from sae_lightning.command import compose, plain
from sae_lightning.config import validate
from sae_lightning.core import UserError
from sae_lightning.tokens import byte_tokenizer
from tests.lm.models import random_model, save
from tests.test_bad_input import refused


def words_of(overrides: list[str]) -> str:
    """Return what a config is refused with when it is composed and validated, before anything is built."""
    with pytest.raises(UserError) as raised:
        validate(plain(compose("train", overrides)))
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sites=crosscoder", "sites.layers=[]"], ["sites.layers=[]", "at least one"]),
        (["sites=crosscoder", "sites.layers=[1, 1]"], ["sites.layers=[1, 1]", "more than once"]),
        (["sites=crosscoder", "sites.layers=[-1]"], ["sites.layers", "-1"]),
        (["sites.kind=mlp"], ["sites.kind='mlp'", "mlp_out"]),
        (["sites=transcoder", "sites.read=[blocks.1.mlp.hook_in]"], ["sites.read", "sites.write", "give both"]),
        (["sites.write=[blocks.1.hook_mlp_out]"], ["sites.write", "sites.read", "give both"]),
        (["sites.read=[]"], ["sites.read=[]"]),
        (["sites=diff"], ["sites.tuned", "sites.tuned.name"]),
        (["sites.tuned.name=gpt2"], ["sites.tuned", "sites=diff"]),
        (["+data.targets=y.npy"], ["data.targets", "data=activations"]),
        (["data=synthetic", "sites=transcoder"], ["data.kind=synthetic", "targets"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_rules_of_the_settings(overrides: list[str], words: list[str]) -> None:
    text = words_of(overrides)
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sites=crosscoder", "sites.layers=[0, 5]"], ["=5", "0 to 2"]),
        (["sites=mlp_inn"], ["mlp_inn", "mlp_in"]),
        (["sites=diff"], ["sites.tuned", "sites.tuned.name"]),
        (["sites=diff", "sites.tuned.name=none-such-model"], ["none-such-model"]),
        (["sites.read=[blocks.1.mlp.hook_in]", "sites.write=[blocks.1.hook_mlp_uot]"], ["hook_mlp_uot"]),
        (["sites=crosscoder", "normalise=layer_norm", "sites.layers=[0, 1]"], ["normalise.mode=layer_norm", "sqrt_d"]),
        (["sites=transcoder", "sae.rescale_acts_by_decoder_norm=true"], ["rescale_acts", "init.scheme"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_bad_sites(command, overrides: list[str], words: list[str], tiny_run) -> None:
    refused(command("train", *tiny_run, *overrides), *words)


def test_two_models_with_different_tokenizers(command, tiny_run, tmp_path: Path) -> None:
    save(random_model("llama"), tmp_path / "other")
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(tmp_path / "other")
    refused(command("train", *tiny_run, "sites=diff", "sites.tuned.name=other"), "other", "tokenizer", "tiny")


def test_a_transcoder_needs_targets_under_the_same_mask(command, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", rows[:1900])
    data = ["lm=none", "data=activations", "data.batch_size=256", "tokens=5120", "sae.d_sae=64", "sae.k=4"]
    data.append("data.path=x.npy")
    refused(command("train", *data, "sites=transcoder"), "data.kind=activations", "data.targets")
    refused(command("train", *data, "data.targets=y.npy"), "data.targets", "1900", "2000", "mask")
    assert "data.targets=x.npy" in words_of([*data, "data.targets=x.npy"])
    assert "crosscoder" in words_of([*data, "sites=crosscoder"])

"""Where the weights lie: one device, or several by accelerate's map; and what is refused in one line."""

import importlib.util
from pathlib import Path

import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.lm import FrozenLM, LazyLM, devices
from sae_lightning.lm.devices import check_device, check_device_map
from tests.lm.models import random_model, save
from tests.lm.test_run import KEEP, TOKENS
from tests.test_bad_input import refused

SITES = ["blocks.0.hook_resid_post", "blocks.1.hook_mlp_out", "model.layers.1.mlp:in"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save(random_model("llama"), tmp_path_factory.mktemp("llama"))


def test_maps_that_cannot_be_are_refused(monkeypatch) -> None:
    with pytest.raises(UserError, match=r"lm\.device_map='autos': must be one of auto.*did you mean 'auto'"):
        check_device_map("autos")
    with pytest.raises(UserError, match=r"lm\.device_map\.model\.norm: lm\.device='gpuu': not a device"):
        check_device_map({"model.norm": "gpuu"})
    with pytest.raises(UserError, match=r"lm\.device='cuda:99'"):
        check_device_map({"": 99})
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package accelerate; pip install 'sae-lightning\[device-map\]'"):
        check_device_map("auto")
    with pytest.raises(UserError, match="needs the package accelerate"):
        LazyLM("tiny", device_map="auto")


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(UserError, match="not a device"):
        check_device("gpuu")
    with pytest.raises(UserError, match=r"no usable CUDA device|this machine has \d+ CUDA"):
        check_device("cuda:99")
    check_device("cpu")


def test_commands_say_it_in_one_line(command, text_file) -> None:
    arguments = ["data=text", f"data.path={text_file}", "lm=tiny", "sites.layer=1", "tokens=5120", "sae.d_sae=64"]
    short = [*arguments, "data.context_length=32", "data.batch_size=128", "data.buffer_tokens=1024"]
    cache = {"SAE_LIGHTNING_CACHE": str(text_file.parent)}
    done = command("train", *short, "lm.device_map=autos", **cache)
    refused(done, "lm.device_map='autos'", "did you mean 'auto'")
    done = command("train", *short, "sites.read=[layers.1.mpl]", **cache)
    refused(done, "layers.1.mpl", "no such hook or module", "did you mean 'layers.1.mlp'")


# Weights on disk come to the CPU when their module runs: hooks of accelerate on some modules, as on a GPU.
OFFLOADED = {
    **dict.fromkeys(["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"], "cpu"),
    "model.layers": "disk",
}


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="needs accelerate")
@pytest.mark.parametrize("device_map", [{"": "cpu"}, OFFLOADED])
def test_a_spread_model_gives_what_it_gives_on_one_device(folder: str, device_map, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = FrozenLM.load(folder, dtype="float32")
    if "disk" in device_map.values():
        import transformers

        load = transformers.AutoModelForCausalLM.from_pretrained
        monkeypatch.setattr(
            transformers.AutoModelForCausalLM,
            "from_pretrained",
            lambda *args, **kwargs: load(*args, **kwargs, offload_folder=str(tmp_path / "offload")),
        )
    spread = FrozenLM.load(folder, dtype="float32", device_map=device_map)
    assert spread.bridge is None
    assert spread.device == torch.device("cpu")
    assert spread.identity() == one.identity()
    ours, theirs = (lm.activations(TOKENS, SITES) for lm in (spread, one))
    for site in SITES:
        torch.testing.assert_close(ours[site], theirs[site], rtol=1e-5, atol=1e-5)
    start, site = SITES[0], SITES[1]
    rows = (0.5 * ours[site]).requires_grad_()
    runs = [
        lm.run(
            TOKENS, {site: rows}, keep=KEEP, start=(start, ours[start]), sites=["blocks.2.hook_resid_post"], grad=True
        )
        for lm in (spread, one)
    ]
    torch.testing.assert_close(runs[0].logits, runs[1].logits, rtol=1e-4, atol=1e-4)
    grads = [torch.autograd.grad(run.logits.logsumexp(-1).mean(), rows)[0] for run in runs]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-6)
    clean = spread.logits(TOKENS)
    assert torch.equal(spread.logits(TOKENS, {site: ours[site]}, start=(start, ours[start])), clean)

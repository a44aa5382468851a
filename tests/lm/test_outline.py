"""Models that transformer_lens does not know: module paths, and hook names as far as the modules tell them."""

import logging

import pytest
import torch
from torch import nn

from sae_lightning.core import UserError
from sae_lightning.lm import FrozenLM, LazyLM, resume_site
from sae_lightning.lm.bridge import NoBridge, hugging_face_bridge
from sae_lightning.lm.outline import checked, outline
from tests.lm.models import UNKNOWN, random_model, save
from tests.lm.test_run import KEEP, TOKENS

LAYERS = {"biogpt": "biogpt.layers"}


@pytest.fixture(scope="module", params=UNKNOWN)
def unknown(request, tmp_path_factory) -> tuple[str, FrozenLM, nn.Module]:
    model = random_model(request.param)
    folder = save(model, tmp_path_factory.mktemp(request.param))
    return LAYERS.get(request.param, "model.layers"), FrozenLM.load(folder, dtype="float32"), model


@pytest.mark.parametrize("kind", UNKNOWN)
def test_they_are_indeed_unknown(kind) -> None:
    with pytest.raises(NoBridge):
        hugging_face_bridge(random_model(kind), kind)


def test_residual_sites_are_hugging_faces_hidden_states(unknown) -> None:
    layers, lm, model = unknown
    sites = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    with torch.no_grad():
        hidden = model(TOKENS, output_hidden_states=True, use_cache=False).hidden_states
    got = lm.activations(TOKENS, [*sites, f"{layers}.1", f"{layers}.1:in"])
    for site, want in zip(sites, hidden[:3], strict=True):
        torch.testing.assert_close(got[site], want, rtol=1e-4, atol=1e-4)
    assert torch.equal(got[sites[2]], got[f"{layers}.1"])
    assert torch.equal(got[sites[1]], got[f"{layers}.1:in"])
    assert (lm.d_model, lm.n_layers, lm.n_ctx, lm.vocab_size) == (32, 3, 64, 300)
    assert lm.bridge is None


def test_runs_edit_modules_and_begin_midway(unknown) -> None:
    layers, lm, model = unknown
    site, start, later = f"{layers}.1", "blocks.0.hook_resid_post", "blocks.2.hook_resid_post"
    read = lm.activations(TOKENS, [site, start])
    clean = lm.run(TOKENS, sites=[later])
    same = lm.run(TOKENS, {site: read[site]}, keep=KEEP, start=(start, read[start]), sites=[later])
    assert torch.equal(same.logits, clean.logits)
    assert torch.equal(same.seen[later], clean.seen[later])
    zeros = torch.zeros(3, 40, 32, requires_grad=True)
    handle = model.get_submodule(site).register_forward_hook(
        lambda _m, _a, out: (zeros, *out[1:]) if isinstance(out, tuple) else zeros
    )
    want = model(TOKENS, use_cache=False).logits
    handle.remove()
    ran = lm.run(TOKENS, {site: zeros}, start=(start, read[start]), grad=True)
    torch.testing.assert_close(ran.logits, want, rtol=1e-4, atol=1e-4)
    ours, theirs = (torch.autograd.grad(logits.logsumexp(-1).mean(), zeros)[0] for logits in (ran.logits, want))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert not any(weight.requires_grad for weight in lm.model.parameters())


def test_outputs_that_do_not_add_up_to_the_stream_get_no_name(unknown, caplog) -> None:
    layers, lm, model = unknown
    added = "blocks.1.hook_mlp_out"
    if layers == "biogpt.layers":
        assert not any(site.startswith("blocks") and "mlp" in site for site in lm.sites())
        return
    read = lm.activations(TOKENS, sites := [f"blocks.1.hook_{name}" for name in ("resid_pre", "attn_out", "mlp_out")])
    whole = lm.activations(TOKENS, [post := "blocks.1.hook_resid_post"])[post]
    torch.testing.assert_close(sum(read[site] for site in sites), whole, rtol=1e-4, atol=1e-4)
    names = outline(model, 3)
    assert added in checked(model, names, TOKENS[:1, :11])
    # A factor between the MLP and the stream, as some models have: layer 1 alone loses the two names.
    handle = model.get_submodule(f"{layers}.1").register_forward_hook(
        lambda _m, _a, out: (out[0] * 1.5, *out[1:]) if isinstance(out, tuple) else out * 1.5
    )
    left = checked(model, names, TOKENS[:1, :11])
    handle.remove()
    assert set(names) - set(left) == {added, "blocks.1.hook_attn_out"}


def test_paths_that_do_not_exist_are_named_with_near_ones(unknown) -> None:
    layers, lm, _ = unknown
    with pytest.raises(UserError, match=rf"no such hook or module; did you mean '{layers}.1.self_attn(:in)?'"):
        lm.check_site(f"{layers}.1.self_atn")
    with pytest.raises(UserError, match="layers 0 to 2"):
        lm.check_site("blocks.3.hook_resid_post")
    with pytest.raises(UserError, match=r"not one vector per token|its shape"):
        lm.check_site(layers.split(".")[0])


def test_a_card_serves_unknown_models_too(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("SAE_LIGHTNING_CACHE", str(tmp_path / "cache"))
    folder = save(random_model("helium"), tmp_path / "model")
    site = "model.layers.1.mlp:in"
    with caplog.at_level(logging.INFO):
        first = LazyLM(folder, dtype="float32")
    assert "no bridge for a HeliumForCausalLM; its sites are module paths" in caplog.text
    assert first.site_width(site) == 32
    again = LazyLM(folder, dtype="float32")
    assert again.site_width(site) == 32
    assert not again.loaded
    value = again.activations(TOKENS, [site])[site]
    start = resume_site([site])
    assert start == "blocks.0.hook_resid_post"
    below = again.activations(TOKENS, [start])[start]
    assert torch.equal(again.logits(TOKENS, {site: value}, start=(start, below)), again.logits(TOKENS))
    assert again.identity() == first.identity()

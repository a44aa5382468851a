"""The real model: SmolLM2 on news."""

import socket

import numpy as np
import pytest
import torch

from sae_lightning.lm import FrozenLM, kl, loss, predicted
from sae_lightning.lm.embedded import smollm2_folder
from sae_lightning.tokens import NewsSource

pytestmark = pytest.mark.lm
SITE = "blocks.9.hook_resid_post"


@pytest.fixture(scope="module")
def tokens(smollm2):
    """Eight windows of 128 tokens, each the beginning of an article behind the separator."""
    rows = []
    for document in NewsSource().documents():
        ids = smollm2.tokenizer.encode(document.text, add_special_tokens=False)
        if len(ids) >= 127:
            rows.append([smollm2.separator_id, *ids[:127]])
        if len(rows) == 8:
            break
    return torch.tensor(rows)


def test_facts(smollm2):
    assert (smollm2.d_model, smollm2.n_layers, smollm2.n_ctx, smollm2.vocab_size) == (576, 30, 8192, 49152)
    assert smollm2.separator_id == smollm2.bos_id == 0
    assert {0, 1, 2} <= set(smollm2.special_ids)
    assert smollm2.site_width("blocks.3.attn.hook_z") == 576


def test_later_loads_ask_no_network(smollm2, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert FrozenLM.load().identity() == smollm2.identity()


def test_reads_news_and_not_noise(smollm2, tokens):
    def ce(ids):
        mask = torch.ones_like(ids, dtype=torch.bool)
        return float(loss(smollm2.logits(ids), ids, mask).sum() / predicted(mask).sum())

    assert 3.0 < ce(tokens[:4]) < 4.2
    order = torch.from_numpy(np.random.default_rng(0).permutation(127)) + 1
    assert ce(torch.cat([tokens[:2, :1], tokens[:2, order]], 1)) > 6.5


def test_equals_plain_hugging_face(smollm2, tokens):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.float32, attn_implementation="sdpa")
    with torch.no_grad():
        out = model.eval()(tokens[:2, :64], output_hidden_states=True)
    full = FrozenLM.load(dtype="float32")
    clean = full.activations(tokens[:2, :64], [SITE])[SITE]
    torch.testing.assert_close(clean, out.hidden_states[10], rtol=1e-3, atol=1e-2)
    logits = full.logits(tokens[:2, :64], {SITE: clean}, start=(SITE, clean))
    torch.testing.assert_close(logits, out.logits, rtol=1e-3, atol=1e-3)


def test_splicing_is_exact_in_bf16(smollm2, tokens):
    """What is read is written back bit for bit; reading rounds in another order than edited runs (``lm.reader``)."""
    short = tokens[:2, :32]
    whole = smollm2.logits(short)
    assert torch.equal(smollm2.logits(short, {SITE: lambda x: x.clone()}), whole)
    clean = smollm2.activations(short, [SITE])[SITE]
    spliced = smollm2.logits(short, {SITE: clean})
    assert torch.equal(smollm2.logits(short, {SITE: clean}, start=(SITE, clean)), spliced)
    assert torch.equal(smollm2.logits(short, start=(SITE, clean)), spliced)
    assert float(kl(whole, spliced).mean()) < 0.01


@pytest.mark.parametrize("length", [128, 300])
def test_reading_is_hugging_faces_own_sdpa(smollm2, tokens, length, caplog):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.bfloat16, attn_implementation="sdpa")
    windows = tokens.flatten()[: 2 * length].view(2, length)
    with torch.no_grad():
        hidden = model.eval().model(windows, output_hidden_states=True, use_cache=False).hidden_states
    sites = ["blocks.0.hook_resid_pre", "blocks.4.hook_resid_post", SITE]
    got = smollm2.activations(windows, sites)
    for site, layer in zip(sites, (0, 5, 10), strict=True):
        assert torch.equal(got[site], hidden[layer]), site
    assert not caplog.records


def test_every_site_by_name_is_read_past_the_bridge(smollm2, tokens, caplog):
    kinds = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out", "attn.hook_z")
    sites = [f"blocks.{layer}.{kind}" for layer in (0, 15, 29) for kind in (*kinds, "mlp.hook_post")]
    ours = smollm2.activations(tokens[:2, :64], sites)
    assert not caplog.records
    theirs = smollm2._reader.through_bridge(tokens[:2, :64], sites)
    for site in sites:
        off = (ours[site].float() - theirs[site].flatten(2).float()).norm(dim=-1)
        share = off / theirs[site].flatten(2).float().norm(dim=-1)
        assert float(share.median()) < 0.05, site


def test_norms_at_the_default_site(smollm2, tokens):
    norms = smollm2.activations(tokens, [SITE])[SITE].float().norm(dim=-1)
    median = float(norms[:, 1:].median())
    assert 100 < median < 180
    assert float((norms[:, 1:] > 10 * median).float().mean()) < 0.001

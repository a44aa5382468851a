"""Which MLPs a site sees: by name, and by what really changes it in a model."""

import pytest
import torch

from sae_lightning.lm import FrozenLM
from sae_lightning.studies.layers_seen import guess, layers_seen
from tests.lm.models import with_twin


@pytest.mark.parametrize(
    ("site", "seen"),
    [
        ("blocks.9.hook_resid_post", 10),
        ("blocks.9.hook_resid_pre", 9),
        ("blocks.9.hook_resid_mid", 9),
        ("blocks.9.hook_attn_out", 9),
        ("blocks.9.attn.hook_z", 9),
        ("blocks.9.mlp.hook_in", 9),
        ("blocks.9.mlp.hook_pre", 9),
        ("blocks.9.mlp.hook_post", 10),
        ("blocks.9.mlp.out.hook_in", 10),
        ("blocks.9.hook_mlp_out", 10),
        ("blocks.0.hook_resid_pre", 0),
        ("model.layers.4", 5),
        ("model.layers.4:in", 4),
        ("model.layers.4.mlp", 5),
        ("model.layers.4.mlp:in", 4),
        ("model.layers.4.mlp.down_proj:in", 5),
        ("model.layers.4.mlp.up_proj", 4),
        ("model.layers.4.self_attn", 4),
        ("transformer.h.2", 3),
        ("blocks.1.ln2_post.hook_normalized", 2),
        ("blocks.1.ln2.hook_normalized", 1),
        ("blocks.1.ln1_post.hook_normalized", 1),
        ("model.layers.4.post_feedforward_layernorm", 5),
        ("model.layers.4.post_feedforward_layernorm:in", 5),
        ("model.layers.4.pre_feedforward_layernorm", 4),
        ("model.layers.4.post_attention_layernorm", 4),
        ("model.layers.4.post_mlp_layernorm", 5),
        ("transformer.h.2.mlp.dropout", 3),
        ("transformer.h.2.attn.resid_dropout", 2),
        ("gpt_neox.layers.2.post_mlp_dropout", 3),
        ("model.layers.4.feed_forward.w2", 5),
        ("model.layers.4.feed_forward.w1", 4),
        ("model.layers.4.feed_forward.w3:in", 4),
        ("model.layers.4.block_sparse_moe.experts.3.w2", 5),
        ("model.layers.4.mlp.experts.3.down_proj", 5),
        ("model.layers.4.mlp.shared_expert.up_proj", 4),
        ("model.layers.4.mlp.gate", 4),
        ("model.layers.4.fc1", 4),
        ("model.layers.4.fc2", 5),
        ("hook_embed", 0),
        ("transformer.wte", 0),
        ("transformer.drop", 0),
        ("model.norm", 12),
        ("lm_head", 12),
        ("hook_unembed", 12),
        ("model.embed_tokens", 0),
        ("ln_final.hook_normalized", 12),
        ("unembed.hook_in", 12),
    ],
)
def test_layers_whose_mlps_a_site_sees(site: str, seen: int) -> None:
    assert layers_seen(site, 12) == seen
    assert guess(site, 12) is None


@pytest.mark.parametrize(
    ("site", "seen", "said"),
    [
        ("model.layers.4.mlp.act_fn", 4, "layers 0 to 3"),
        ("model.layers.1.mlp.w2", 1, "layer 0"),
        ("model.layers.0.odd", 0, "none"),
        ("model.odd", 12, "layers 0 to 11"),
    ],
)
def test_what_is_taken_for_granted_is_said(site: str, seen: int, said: str) -> None:
    assert layers_seen(site, 12) == seen
    note = guess(site, 12) or ""
    assert note.startswith(f"{site} is not known: taken to lie")
    assert note.endswith(f"so that it sees {said}")


@pytest.mark.parametrize("kind", ["tiny", "gemma2", "llama"])
def test_what_a_site_sees_is_what_changes_it(kind: str) -> None:
    """The names say what the model does: neurons set to 0 change the sites that see them, and no others."""
    lm = FrozenLM.load("tiny", dtype="float32", seed=3) if kind == "tiny" else with_twin(kind)[0]
    tokens = torch.arange(12)[None]
    constant = ("hook_cos", "hook_sin", "mask")
    sites: list[str] = []
    for site in lm.sites():
        # Blocks are alike.
        if ".0." in site or ".2." in site or guess(site, 3) or site.endswith(constant):
            continue
        try:
            sites += lm.run(tokens, sites=[site]).seen
        except ValueError:  # this model passes it by
            continue
    assert len(sites) > 60
    if kind == "gemma2":
        assert {"blocks.1.ln2_post.hook_normalized", "model.layers.1.post_feedforward_layernorm"} <= set(sites)
    for layer in range(3):
        neurons = f"blocks.{layer}.mlp.hook_post"
        # Written both times: runs that write may go another way through the model, which rounds otherwise.
        clean = lm.run(tokens, {neurons: torch.clone}, sites=sites).seen
        seen = lm.run(tokens, {neurons: torch.zeros_like}, sites=sites).seen
        for site, before in clean.items():
            # The neurons themselves are what is replaced.
            if layer == 1 and (site == neurons or site.endswith(("out:in", "down_proj:in"))):
                continue
            assert (not torch.equal(seen[site], before)) == (layer < layers_seen(site, 3)), (site, layer)

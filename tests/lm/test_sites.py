import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.lm import resolve_sites, resume_site, site_layer
from sae_lightning.lm.sites import unknown_site
from tests.lm.models import with_twin


@pytest.mark.parametrize(
    ("kind", "hook"),
    [
        ("resid", "hook_resid_post"),
        ("mlp_in", "mlp.hook_in"),
        ("mlp_out", "hook_mlp_out"),
        ("attn_out", "hook_attn_out"),
    ],
)
def test_kinds_and_layers(kind, hook):
    assert resolve_sites(kind, 9) == (f"blocks.9.{hook}",)
    assert resolve_sites(kind, [1, 4], n_layers=5) == (f"blocks.1.{hook}", f"blocks.4.{hook}")


def test_names_pass_through():
    assert resolve_sites("resid", 3, names=["a.b"]) == ("a.b",)
    assert resolve_sites(None, None, names="a.b") == ("a.b",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "residual", "layer": 1}, "did you mean 'resid'"),
        ({"kind": "resid", "layer": None}, "sites.layer is not set"),
        ({"kind": "resid", "layer": 30, "n_layers": 30}, "layers 0 to 29"),
        ({"kind": "resid", "layer": -1}, "out of range"),
        ({"names": []}, "at least one hook name"),
        ({"kind": "resid", "layer": []}, r"sites.layers=\[\]: must be different layers"),
        ({"kind": "resid", "layer": [1, 2, 1]}, "must be different layers"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(UserError, match=message):
        resolve_sites(**arguments)


def test_layer_of_a_site():
    assert site_layer("blocks.12.attn.hook_z") == 12
    assert site_layer("ln_final.hook_out") is None
    assert site_layer("tuned/blocks.3.hook_resid_post") == 3
    assert site_layer("model.layers.4.mlp:in") == 4
    assert site_layer("model.layers.11") == 11
    assert site_layer("transformer.h.7:in") == 7
    assert site_layer("model.vision_tower.encoder.layers.2.mlp") is None
    assert site_layer("model.norm") is None


@pytest.mark.parametrize(
    ("sites", "start"),
    [
        (["blocks.9.hook_resid_post"], "blocks.9.hook_resid_post"),
        (["blocks.9.hook_resid_post", "blocks.8.hook_resid_post"], "blocks.8.hook_resid_post"),
        (["blocks.9.hook_mlp_out"], "blocks.8.hook_resid_post"),
        (["blocks.9.hook_resid_post", "blocks.9.hook_mlp_out"], "blocks.8.hook_resid_post"),
        (["blocks.0.hook_mlp_out"], None),
        (["blocks.0.hook_resid_post"], "blocks.0.hook_resid_post"),
        (["model.layers.4.mlp", "blocks.6.hook_resid_post"], "blocks.3.hook_resid_post"),
        (["embed.hook_out", "blocks.6.hook_resid_post"], None),
        (["odd.list.4.mlp"], None),
        (["tuned/blocks.9.hook_resid_post"], "tuned/blocks.9.hook_resid_post"),
        (["tuned/blocks.9.hook_mlp_out"], "tuned/blocks.8.hook_resid_post"),
        (["base/blocks.9.hook_resid_post", "tuned/blocks.9.hook_resid_post"], None),
        ([], None),
    ],
)
def test_where_a_run_may_begin(sites, start):
    assert resume_site(sites) == start


@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox", "tiny"])
def test_mlp_in_is_what_the_mlp_takes_in_after_its_norm(kind, tiny):
    lm = tiny if kind == "tiny" else with_twin(kind)[0]
    tokens = torch.arange(20)[None]
    (site,), (out,) = resolve_sites("mlp_in", 1), resolve_sites("mlp_out", 1)
    read = lm.activations(tokens, [site, out])
    mlp = {"gpt2": "transformer.h.1.mlp", "neox": "gpt_neox.layers.1.mlp", "tiny": "layers.1.mlp"}
    module = lm.model.get_submodule(mlp.get(kind, "model.layers.1.mlp"))
    with torch.no_grad():
        torch.testing.assert_close(module(read[site]), read[out], rtol=1e-4, atol=1e-4)


def test_unknown_site_prefers_names_of_the_same_layer():
    known = [f"blocks.{i}.{hook}" for i in range(12) for hook in ("hook_resid_post", "hook_mlp_out")]
    text = str(unknown_site("blocks.7.hook_resid_pst", known, 12))
    assert "'blocks.7.hook_resid_post'" in text
    assert "blocks.8" not in text
    assert "layers 0 to 11" in str(unknown_site("blocks.12.hook_resid_post", known, 12))

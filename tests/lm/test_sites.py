import pytest

from sae_lightning.core import UserError
from sae_lightning.lm import resolve_sites, site_layer
from sae_lightning.lm.sites import unknown_site


@pytest.mark.parametrize(
    ("kind", "hook"), [("resid", "hook_resid_post"), ("mlp_out", "hook_mlp_out"), ("attn_out", "hook_attn_out")]
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
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(UserError, match=message):
        resolve_sites(**arguments)


def test_layer_of_a_site():
    assert site_layer("blocks.12.attn.hook_z") == 12
    assert site_layer("ln_final.hook_out") is None


def test_unknown_site_prefers_names_of_the_same_layer():
    known = [f"blocks.{i}.{hook}" for i in range(12) for hook in ("hook_resid_post", "hook_mlp_out")]
    text = str(unknown_site("blocks.7.hook_resid_pst", known, 12))
    assert "'blocks.7.hook_resid_post'" in text
    assert "blocks.8" not in text
    assert "layers 0 to 11" in str(unknown_site("blocks.12.hook_resid_post", known, 12))

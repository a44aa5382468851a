"""The model card: what it says, and that nothing in the metadata breaks it."""

import json
import re

import pytest
import yaml

from sae_lightning.sae import formats
from sae_lightning.sae.card import model_card
from tests.sae.formats.cases import CROSS, make


def front(card: str) -> dict:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_figures_with_their_intervals():
    sae = make("topk")
    sae.metadata["training"] |= {"intervals": {"fvu": [0.24, 0.26], "l0": None}, "measured_on": {"fvu": 81920, "l0": 0}}
    card = model_card(sae, meaning=lambda name: f"about {name}")
    assert "| `fvu` | 0.25 | 0.24 to 0.26 | 81,920 | about fvu |" in card
    assert "| `l0` | 4 | - | - | about l0 |" in card
    assert "ce_clean" not in card  # undefined: not measured
    assert "bootstrapped over windows" in card
    sae.metadata["training"] = {}
    assert "## Figures" not in model_card(sae)


def test_front_matter_and_licence():
    sae = make("topk")
    assert front(model_card(sae))["license"] == "unknown"
    assert "none was stated" in model_card(sae)
    sae.metadata["lm"]["name"] = "org/model"
    found = front(model_card(sae, license="cc-by-4.0", form="saelens", repo="me/x"))
    assert found["license"] == "cc-by-4.0"
    assert found["library_name"] == "saelens"
    assert found["base_model"] == "org/model"
    assert "sparse-autoencoder" in found["tags"]


@pytest.mark.parametrize("form", ["saelens", "sparsify", "dictionary_learning", "sae_lightning"])
def test_loading_code_is_python(form):
    for repo in (None, "me/x"):
        card = model_card(make("topk"), form=form, repo=repo)
        blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert blocks
        for block in blocks:
            compile(block, "card", "exec")
        assert ("snapshot_download" in card) == (repo is not None)
        assert all(name in card for name in formats.names())


def test_recipe_is_json():
    (recipe,) = re.findall(r"```json\n(.*?)\n```", model_card(make("jumprelu")), re.DOTALL)
    assert json.loads(recipe)["options"]["theta_init"] == 0.3
    assert json.loads(recipe)["tokens"] == 1000


def test_mask_and_normalisation():
    sae = make("topk")
    sae.metadata["mask"] = {"special_ids": [0, 1], "first_position": True, "norm_multiple": 10.0, "median_norm": 2.5}
    sae.metadata["normalisation"] = {"mode": "sqrt_d", "centre": "auto"}
    card = model_card(sae)
    assert "longer than 25" in card
    assert "the first position of every window" in card
    assert "folded into the weights" in card
    sae.metadata["mask"] = None
    sae.metadata["normalisation"] = {"mode": "layer_norm"}
    assert "No mask is recorded" in model_card(sae)
    assert "done by the SAE itself" in model_card(sae)


def test_bare_sae_and_transcoder():
    sae = make("standard", sites=CROSS, d_out=7)
    where = "`blocks.3.mlp.hook_in` to `blocks.3.hook_mlp_out` of gpt2."
    assert f"A transcoder (standard, 40 features) on {where}" in model_card(sae)
    sae.metadata = {}
    assert "on activations." in model_card(sae)


def test_metadata_can_not_break_the_card():
    sae = make("topk")
    evil = "a|b\n# <script>x</script> `c` [d](e)"
    sae.metadata["lm"] = {"name": evil, "revision": "/home/someone/lm"}
    sae.metadata["sites"] = {"read": [evil], "write": [evil]}
    sae.metadata["data"] = {"note": "```\n# broken", "file": "/data/mine.bin"}
    sae.metadata["training"]["heldout"] = {evil: 1.0}
    card = model_card(sae, meaning=lambda name: evil, title=evil)
    assert "<script>" not in card.split("## Recipe")[0]
    assert "/home" not in card
    assert "/data" not in card
    assert [line for line in card.splitlines() if line.startswith("# ")] == [
        card.split("---\n")[2].strip().splitlines()[0]
    ]
    assert card.count("```") % 2 == 0
    assert front(card)

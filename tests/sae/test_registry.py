import pytest

from sae_lightning.core import UserError
from sae_lightning.sae import StandardSAE, architecture_names, sae_class
from sae_lightning.sae.base import SparseAutoencoder
from tests.sae.naive_sae import ARCHITECTURES


def test_all_architectures_are_found_each_in_its_own_file():
    assert set(ARCHITECTURES) <= set(architecture_names())
    for name in ARCHITECTURES:
        assert sae_class(name).name == name
        assert sae_class(name).__module__ == f"sae_lightning.sae.{name}"


def test_unknown_name_lists_near_ones():
    with pytest.raises(UserError, match="did you mean 'batch_topk'"):
        sae_class("batchtopk")


def test_a_class_defined_elsewhere_is_found():
    try:
        mine = type("Mine", (StandardSAE,), {"name": "mine"})
        assert sae_class("mine") is mine
    finally:
        SparseAutoencoder.registered.pop("mine")

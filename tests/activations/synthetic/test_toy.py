"""Toy models of superposition: trained for real, then read."""

import json

import pytest
import torch

from sae_lightning.activations.synthetic import ToySuperposition, planted_model
from sae_lightning.core import UserError


@pytest.fixture(scope="module")
def toy() -> ToySuperposition:
    return ToySuperposition(num_features=40, hidden_dim=12, feature_probability=0.03, steps=800, importance_decay=0.9)


def test_it_learned_to_pack_more_features_than_it_has_dimensions(toy: ToySuperposition) -> None:
    assert 12 < toy.num_features < 40, "sparse inputs share dimensions, unimportant ones are dropped"
    torch.manual_seed(0)
    x = torch.where(torch.rand(20_000, 40) < 0.03, torch.rand(20_000, 40), 0.0)
    importance = 0.9 ** torch.arange(40)
    loss = ((x - torch.relu(x @ toy.W.T @ toy.W + toy.b)).square() * importance).sum(1).mean()
    # Against the best a model without superposition could do: the twelve most important features kept whole.
    linear = (x[:, 12:].square() * importance[12:]).sum(1).mean()
    assert loss < 0.8 * linear
    assert (toy.directions.norm(dim=1) - 1).abs().max() < 1e-5


def test_rows_are_hidden_activations_and_truth_what_has_a_direction(toy: ToySuperposition) -> None:
    x, truth = toy.block(3)
    assert x.shape == (1024, 12)
    assert truth.d_sae == toy.num_features
    assert (truth.values > 0).all()
    rest = x - truth.dense() @ toy.directions
    # What is left over is made of features with a short direction, each firing in 3 % of rows.
    assert float(rest.norm(dim=1).max()) < 0.5 * (40 - toy.num_features)
    clean = rest.norm(dim=1) < 1e-5
    assert 0.3 < float(clean.float().mean()) < 1
    rates = torch.stack([toy.block(i)[1].counts() for i in range(20)]).sum(0) / (20 * 1024)
    torch.testing.assert_close(rates, toy.firing_probabilities, atol=0.006, rtol=0)


def test_the_same_seed_gives_the_same_network_through_json(toy: ToySuperposition) -> None:
    again = planted_model(json.loads(json.dumps(toy.parameters())))
    assert isinstance(again, ToySuperposition)
    assert torch.equal(again.W, toy.W)
    assert again.fingerprint == toy.fingerprint


def test_what_leaves_nothing_to_superpose_is_refused() -> None:
    with pytest.raises(UserError, match="hidden_dim=8: must be below num_features=8"):
        ToySuperposition(num_features=8, hidden_dim=8)
    with pytest.raises(UserError, match="least_norm=50"):
        ToySuperposition(num_features=8, hidden_dim=2, steps=5, least_norm=50)

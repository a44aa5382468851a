"""Blocks of rows: sums of what fires, in any order, from the same settings the same bits."""

import json

import numpy as np
import pytest
import torch

from sae_lightning.activations.synthetic import BLOCK_ROWS, SyntheticModel, planted_model
from sae_lightning.activations.synthetic.directions import orthogonalised
from sae_lightning.activations.synthetic.settings import Magnitude, Orthogonalization
from sae_lightning.core import UserError
from tests.activations.synthetic.small import CORRELATION, HIERARCHY, small


def everything() -> SyntheticModel:
    return small(
        hierarchy=HIERARCHY,
        correlation=CORRELATION,
        orthogonalization=Orthogonalization(num_steps=20),
        mean_firing_magnitudes=Magnitude(type="folded_normal", mean=2.0, std=0.5),
    )


def test_rows_are_the_sums_of_what_fires_plus_the_bias() -> None:
    model = everything()
    x, truth = model.block(7)
    assert x.shape == (BLOCK_ROWS, 16)
    assert x.dtype == torch.float32
    assert truth.d_sae == model.num_features == 64
    assert (truth.values > 0).all()
    wanted = truth.dense().double() @ model.directions.double() + model.bias.double()
    torch.testing.assert_close(x.double(), wanted, atol=1e-5, rtol=0)
    np.testing.assert_allclose(model.directions.norm(dim=1), 1, atol=1e-6)
    assert float(model.bias.norm()) == pytest.approx(2.0)
    rows, features, _ = truth.triples()
    assert ((rows * 64 + features).diff() > 0).all()


def test_a_block_is_a_function_of_its_number_stream_and_seed_alone() -> None:
    model, again = everything(), everything()
    later = {n: again.block(n)[0] for n in (5, 0, 3)}
    for n in (0, 3, 5):
        assert torch.equal(model.block(n)[0], later[n])
    torch.rand(3)  # a global generator has no say
    assert torch.equal(model.block(0)[0], later[0])
    different = [model.block(1), model.block(0, "train"), model.block(0, seed=1), small(seed=1).block(0)]
    assert all(not torch.equal(later[0], x) for x, _ in different)


def test_blocks_are_joined_in_the_order_asked() -> None:
    model = everything()
    x, truth = model.blocks([4, 1])
    parts = [model.block(4), model.block(1)]
    assert torch.equal(x, torch.cat([part[0] for part in parts]))
    assert torch.equal(truth.dense(), torch.cat([part[1].dense() for part in parts]))


@pytest.mark.parametrize(("bias", "norm"), [(False, 0.0), (True, 1.0), (3.5, 3.5)])
def test_bias_is_off_on_or_a_norm(bias: bool | float, norm: float) -> None:
    assert float(small(bias=bias).bias.norm()) == pytest.approx(norm, rel=1e-5)


def test_driving_apart_descends_the_loss_that_is_stated() -> None:
    start = small().directions
    e = start.clone().requires_grad_()
    gram = e @ e.T
    eye = torch.eye(len(e), dtype=torch.bool)
    (gram[~eye].square().sum() + len(e) * (gram[eye] - 1).square().sum()).backward()
    twin = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([twin], lr=0.01)
    twin.grad = e.grad
    optimizer.step()
    once = orthogonalised(start, Orthogonalization(num_steps=1, lr=0.01))
    torch.testing.assert_close(once, torch.nn.functional.normalize(twin.detach(), dim=1), atol=1e-5, rtol=0)
    far = orthogonalised(start, Orthogonalization(num_steps=200))
    before, after = ((d @ d.T)[~eye].square().mean() for d in (start, far))
    # 64 unit vectors in 16 dimensions: the least mean squared cosine is (64 - 16) / (16 * 63).
    assert after < before
    assert float(after) == pytest.approx(48 / (16 * 63), rel=0.05)


def test_parameters_rebuild_the_model_through_json() -> None:
    model = everything()
    again = planted_model(json.loads(json.dumps(model.parameters())))
    assert again.fingerprint == model.fingerprint
    assert torch.equal(again.block(2)[0], model.block(2)[0])
    assert small(seed=3).fingerprint != small().fingerprint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "pickle"}, "kind='pickle' is unknown"),
        ({"num_features": 0}, "num_features=0"),
        ({"nmu_features": 4}, "nmu_features is no parameter"),
        ({"hierarchy": {"max_depth": 0}}, "hierarchy.max_depth=0"),
        ({"mean_firing_magnitudes": {"type": "cubic"}}, "mean_firing_magnitudes"),
    ],
)
def test_parameters_that_make_no_model_are_refused_in_one_line(change: dict, said: str) -> None:
    with pytest.raises(UserError) as caught:
        planted_model(small().parameters() | change)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parameter_left_out_is_named() -> None:
    with pytest.raises(UserError, match="num_features"):
        planted_model({"kind": "synthetic", "hidden_dim": 4})


def test_children_cannot_be_scaled_by_a_magnitude_of_zero() -> None:
    how = HIERARCHY.model_copy(update={"scale_children_by_parent": True})
    with pytest.raises(UserError, match="scale_children_by_parent=false"):
        small(hierarchy=how, mean_firing_magnitudes=0.0)

"""Two models with planted features: what is shared is in both halves of a row, what is exclusive in one."""

import json

import pytest
import torch
from torch.nn import functional

from sae_lightning.activations.synthetic import TwoModels, planted_model
from sae_lightning.activations.synthetic.settings import FiringProbability
from sae_lightning.activations.synthetic.two_models import BASE_ONLY, SHARED, TUNED_ONLY
from sae_lightning.core import UserError

WIDTH = 24


def small(**settings) -> TwoModels:
    given = {
        "shared": 20,
        "base_only": 6,
        "tuned_only": 4,
        "width": WIDTH,
        "firing_probability": FiringProbability(type="random", min_prob=0.02, max_prob=0.3),
        "std_firing_magnitudes": 0.2,
        "bias": 2.0,
    }
    return TwoModels(**(given | settings))


def test_each_half_of_a_row_is_the_sum_of_what_that_model_has() -> None:
    model = small(tuned_scale=3.0)
    x, truth = model.block(2)
    assert x.shape == (1024, 2 * WIDTH)
    fired = truth.dense() @ model.directions
    torch.testing.assert_close(x, fired + model.bias, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.directions.norm(dim=1), torch.ones(30))
    assert float(model.bias[:WIDTH].norm()) == pytest.approx(2)
    assert float(model.bias[WIDTH:].norm()) == pytest.approx(6)
    assert model.site_widths == {"base/rows": WIDTH, "tuned/rows": WIDTH}


@pytest.mark.parametrize("cosine", [0.0, 0.7, 1.0])
def test_features_are_where_they_were_planted(cosine: float) -> None:
    model = small(cosine=cosine, least_strength=0.4)
    base, tuned = model.directions[:, :WIDTH], model.directions[:, WIDTH:]
    kinds = model.kind_of
    assert torch.bincount(kinds).tolist() == [20, 6, 4]
    assert kinds.tolist() != sorted(kinds.tolist())
    assert (tuned[kinds == BASE_ONLY] == 0).all()
    assert (base[kinds == TUNED_ONLY] == 0).all()
    shared = kinds == SHARED
    found = (functional.normalize(base[shared]) * functional.normalize(tuned[shared])).sum(1)
    torch.testing.assert_close(found, torch.full((20,), cosine), atol=1e-5, rtol=0)
    ratio = base[shared].norm(dim=1) / tuned[shared].norm(dim=1)
    weaker = torch.minimum(ratio, 1 / ratio)
    assert 0.4 <= weaker.min() < 0.6 < weaker.max() <= 1
    assert 4 <= int((ratio < 1).sum()) <= 16


def test_a_magnitude_is_that_of_the_stronger_model() -> None:
    model = small(std_firing_magnitudes=0.0, mean_firing_magnitudes=1.5, cosine=1.0, bias=False)
    _, truth = model.block(0)
    _, features, values = truth.triples()
    halves = model.directions.unflatten(1, (2, WIDTH)).norm(dim=2)
    stronger = values[:, None] * halves[features]
    torch.testing.assert_close(stronger.max(1).values, torch.full((len(values),), 1.5))


def test_the_parameters_rebuild_it_and_the_seed_decides() -> None:
    model = small()
    again = planted_model(json.loads(json.dumps(model.parameters())))
    assert isinstance(again, TwoModels)
    assert torch.equal(again.kind_of, model.kind_of)
    assert torch.equal(again.block(1)[0], model.block(1)[0])
    assert small(seed=1).fingerprint != model.fingerprint


def test_no_feature_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="there is no feature"):
        small(shared=0, base_only=0, tuned_only=0)
    assert small(shared=0, tuned_only=0).num_features == 6

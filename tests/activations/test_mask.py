import json
import math

import pytest
import torch

from sae_lightning.activations import MaskPolicy
from sae_lightning.core import TokenBatch, UserError


def batch(tokens, mask=None, index=None):
    tokens = torch.tensor(tokens)
    mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else torch.tensor(mask)
    index = torch.arange(tokens.numel()).view_as(tokens) if index is None else torch.tensor(index)
    zero = torch.zeros(len(tokens), dtype=torch.int64)
    return TokenBatch(tokens=tokens, mask=mask, token_index=index, text_index=zero, start=zero)


def test_each_rule_removes_what_it_names():
    tokens = batch([[5, 0, 7, 8], [5, 6, 7, 8]], mask=[[True] * 4, [True, True, True, False]])
    x = torch.ones(2, 4, 3)
    x[0, 3] = 100.0
    policy = MaskPolicy((0,), first_position=True, norm_multiple=10.0, median_norm=math.sqrt(3))
    assert policy.keep(tokens, x).tolist() == [[False, False, True, False], [False, True, True, False]]
    loose = MaskPolicy((), first_position=False, norm_multiple=None)
    assert loose.keep(tokens, x).tolist() == [[True] * 4, [True, True, True, False]]


def test_inserted_separators_never_count():
    tokens = batch([[5, 9, 7]], index=[[0, -1, 1]])
    assert MaskPolicy(first_position=False, norm_multiple=None).keep(tokens, torch.ones(1, 3, 2)).tolist() == [
        [True, False, True]
    ]


def test_norms_are_exact_in_bf16_and_not_finite_ones_are_dropped():
    tokens = batch([[1, 2, 3, 4]])
    x = torch.full((1, 4, 1000), 1.0, dtype=torch.bfloat16)
    x[0, 1] = math.inf
    x[0, 2] = math.nan
    x[0, 3] = 1.1
    policy = MaskPolicy(first_position=False, norm_multiple=1.05, median_norm=math.sqrt(1000))
    assert policy.keep(tokens, x).tolist() == [[True, False, False, False]]


def test_fit_sets_the_median_and_asking_before_is_an_error():
    policy = MaskPolicy((1, 2))
    assert not policy.fitted
    with pytest.raises(ValueError, match="fit it first"):
        policy.keep(batch([[3]]), torch.ones(1, 1, 2))
    fitted = policy.fit(torch.tensor([1.0, 2.0, 30.0]))
    assert fitted == MaskPolicy((1, 2), median_norm=2.0)
    assert fitted.fitted
    assert policy.fit(torch.zeros(3)).norm_multiple is None


def test_round_trip_through_json():
    policy = MaskPolicy((3, 1), False, 7.5, 2.25)
    assert MaskPolicy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    with pytest.raises(UserError, match="did you mean 'median_norm'"):
        MaskPolicy.from_dict({"median_nrm": 1.0})


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_bad_multiples(value):
    with pytest.raises(UserError, match="norm_multiple"):
        MaskPolicy(norm_multiple=value)

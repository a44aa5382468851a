import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.lm import FrozenLM


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_rng_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (FrozenLM.load("tiny", dtype="float32", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    tokens = torch.arange(20).view(2, 10)
    assert torch.equal(a.logits(tokens), b.logits(tokens))
    assert not torch.equal(a.logits(tokens), c.logits(tokens))
    assert a.identity() == b.identity() != c.identity()


def test_options():
    lm = FrozenLM.load("tiny", d_model=16, n_layers=1, n_heads=2, n_ctx=8)
    assert (lm.d_model, lm.n_layers, lm.n_ctx, lm.vocab_size) == (16, 1, 8, 257)
    assert lm.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tiny", {"n_layer": 2}, "did you mean 'n_layers'"),
        ("tiny", {"d_model": 30}, "multiple of lm.n_heads=4"),
        ("tiny", {"n_ctx": 0}, "at least 1"),
        ("smollm2", {"n_ctx": 8}, "only lm=tiny"),
    ],
)
def test_mistakes(name, options, message):
    with pytest.raises(UserError, match=message):
        FrozenLM.load(name, **options)

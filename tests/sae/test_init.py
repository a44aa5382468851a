import math

import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.sae import geometric_median, initialise, sae_class
from tests.sae.naive_sae import ARCHITECTURES, OPTIONS


def sample(n=300, d=12, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + 3


def fresh(name, d_out=None, **options):
    return sae_class(name)(12, 40, d_out, **(OPTIONS[name] | options))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_defaults_of_each_architecture(name):
    sae = fresh(name)
    initialise(sae, sample())
    norm = {"standard": 0.1, "jumprelu": 0.1}.get(name, 1.0)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.full((40,), norm))
    assert torch.equal(sae.W_enc, sae.W_dec.t())
    assert not sae.b_enc.any()
    if "topk" in name or name == "matryoshka":
        torch.testing.assert_close(sae.b_dec, geometric_median(sample()).float())
    else:
        assert not sae.b_dec.any()


@pytest.mark.parametrize("scheme", ["tied", "kaiming", "kaiming_transpose", "datapoint", "zero_decoder"])
def test_same_seed_same_weights(scheme):
    def weights(seed):
        sae = fresh("topk")
        torch.manual_seed(torch.seed())
        initialise(sae, sample(), scheme=scheme, seed=seed)
        return sae.state_dict()

    a, b, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["W_enc"], other["W_enc"])


def test_schemes():
    x = sample()
    sae = fresh("standard")
    initialise(sae, x, scheme="kaiming", decoder_norm=0.12, b_dec="mean")
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.full((40,), 0.12))
    torch.testing.assert_close(sae.b_dec, x.mean(0))
    bound = math.sqrt(6 / 12)
    assert 0.9 * bound < sae.W_enc.abs().max() <= bound
    initialise(sae, x, scheme="kaiming_transpose", decoder_norm=0.12)
    assert 0.9 * bound < sae.W_enc.abs().max() <= bound
    expected = 0.12 * torch.nn.functional.normalize(sae.W_enc.t(), dim=1)
    torch.testing.assert_close(sae.W_dec, expected)
    initialise(sae, x, scheme="datapoint", decoder_norm=0.5)
    directions = torch.nn.functional.normalize(x - x.mean(0), dim=1)
    cosine = (sae.W_dec / 0.5) @ directions.t()
    assert cosine.amax(1).min() > 1 - 1e-5
    assert len(cosine.argmax(1).unique()) == 40
    initialise(sae, x[:7], scheme="datapoint")
    assert torch.unique(sae.W_dec, dim=0).shape[0] == 40


def test_transcoder_starts_at_the_mean_target():
    x, y = sample(), sample(d=5, seed=1)
    sae = fresh("topk", 5)
    initialise(sae, x, y)
    torch.testing.assert_close(sae(x).y_hat, y.mean(0).expand(300, -1))
    assert sae.W_enc.norm(dim=0).min() > 0
    initialise(sae, x, y, scheme="tied", decoder_norm=0.3)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.full((40,), 0.3))
    torch.testing.assert_close(sae.W_enc.norm(dim=0), torch.full((40,), 0.3))


@pytest.mark.parametrize("scheme", ["tied", "kaiming", "datapoint"])
def test_a_crosscoder_starts_with_the_same_length_at_each_site(scheme):
    sae = fresh("topk", site_widths=(4, 8))
    initialise(sae, sample(), scheme=scheme)
    for part in sae.W_dec.split([4, 8], dim=1):
        torch.testing.assert_close(part.norm(dim=1), torch.full((40,), 2**-0.5))
    initialise(sae, sample(), scheme=scheme, decoder_norm=0.08)
    for part in sae.W_dec.split([4, 8], dim=1):
        torch.testing.assert_close(part.norm(dim=1), torch.full((40,), 0.08))
    if scheme != "kaiming":
        assert torch.equal(sae.W_enc, sae.W_dec.t())


def test_wrong_sample():
    for x in (sample(0), sample(d=11)):
        with pytest.raises(UserError, match=r"sample|input"):
            initialise(fresh("topk"), x)

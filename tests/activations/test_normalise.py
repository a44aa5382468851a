import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lightning.activations import Normaliser, gamma
from sae_lightning.core import UserError

AFFINE = ("none", "centre", "sqrt_d", "rms")


def sample(n=400, d=12, shift=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) * torch.linspace(0.5, 3, d) + shift


@pytest.mark.parametrize("centre", [True, False])
def test_each_mode_reaches_what_it_promises(centre):
    x = sample(shift=2.0)
    d = x.shape[1]
    out = Normaliser.fit(x, "sqrt_d", centre).apply(x)
    assert float(out.norm(dim=1).mean()) == pytest.approx(math.sqrt(d), rel=1e-5)
    out = Normaliser.fit(x, "rms", centre).apply(x)
    assert float(out.square().mean()) == pytest.approx(1, rel=1e-5)
    assert float(out.mean(0).norm()) < 1e-5 or not centre
    none = Normaliser.fit(x, "none", centre)
    assert torch.equal(none.apply(x), x - x.double().mean(0).float() if centre else x)
    assert torch.equal(Normaliser.fit(x, "centre").apply(x), Normaliser.fit(x, "none", True).apply(x))


def test_layer_norm_is_torch_layer_norm():
    x = sample(shift=1.0)
    torch.testing.assert_close(Normaliser.fit(x, "layer_norm").apply(x), torch.nn.functional.layer_norm(x, (12,)))


@pytest.mark.parametrize("mode", [*AFFINE, "layer_norm"])
def test_undo_is_the_inverse(mode):
    x = sample(shift=3.0)
    normaliser = Normaliser.fit(x, mode)
    torch.testing.assert_close(normaliser.undo(normaliser.apply(x), x), x, rtol=1e-4, atol=1e-4)
    assert torch.equal(normaliser.apply_output(x), normaliser.apply(x))
    assert normaliser.foldable == (mode != "layer_norm")


@settings(max_examples=25, deadline=None)
@given(shift=st.floats(0, 30), scale=st.floats(1e-3, 1e3))
def test_gamma_and_automatic_centring(shift, scale):
    x = sample(shift=shift) * scale
    naive = x.double().mean(0).norm() / (x.double() - x.double().mean(0)).square().sum(1).mean().sqrt()
    assert gamma(x) == pytest.approx(float(naive), rel=1e-9)
    assert Normaliser.fit(x, "sqrt_d").centre == (gamma(x) > 0.5)


def test_gamma_ignores_how_the_sample_is_chunked(monkeypatch):
    x = sample(1000, shift=50.0)
    whole = gamma(x)
    monkeypatch.setattr("sae_lightning.activations.normalise._CHUNK", 37)
    assert gamma(x) == pytest.approx(whole, rel=1e-12)


def test_targets_of_a_transcoder_have_their_own_statistics():
    x, y = sample(shift=4.0), sample(d=5, seed=1)
    normaliser = Normaliser.fit(x, "rms", True, y=y)
    assert float(normaliser.apply_output(y).square().mean()) == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(normaliser.undo(normaliser.apply_output(y)), y)
    layer = Normaliser.fit(x, "layer_norm", False, y=x * 2)
    torch.testing.assert_close(layer.undo(layer.apply_output(x * 2, x), x), x * 2)


def test_concatenated_sites_are_scaled_each_on_its_own():
    a, b = sample(d=4), sample(d=8, seed=1) * 100
    joint = Normaliser.fit(torch.cat([a, b], 1), "sqrt_d", False, widths=(4, 8))
    alone = torch.cat([Normaliser.fit(v, "sqrt_d", False).apply(v) for v in (a, b)], 1)
    torch.testing.assert_close(joint.apply(torch.cat([a, b], 1)), alone)
    assert joint.site_scales((4, 8)) == [float(joint.scale[0]), float(joint.scale[-1])]
    assert joint.site_scales((4, 8))[0] > 10 * joint.site_scales((4, 8))[1]


def test_statistics_survive_the_checkpoint_and_half_precision():
    x = sample(shift=2.0)
    fitted = Normaliser.fit(x)
    copy = Normaliser("sqrt_d", fitted.centre, 12)
    copy.load_state_dict(fitted.state_dict())
    assert torch.equal(copy.apply(x), fitted.apply(x))
    half = torch.nn.Sequential(copy).bfloat16()
    assert copy.mean.dtype == torch.float32
    assert torch.equal(half[0].apply(x), fitted.apply(x))
    half.apply(lambda module: None)  # nn.Module's own apply still visits it


def test_a_large_shift_is_fitted_in_float64():
    x = sample(20_000) + 1e4
    normaliser = Normaliser.fit(x, "rms", True)
    assert float(normaliser.apply(x).square().mean()) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((sample(), "sqrtd"), "did you mean 'sqrt_d'"),
        ((sample(), "layer_norm", True), "set centre=false"),
        ((torch.zeros(5, 3), "rms"), "all 5 sampled activations of a site are equal"),
        ((torch.ones(5, 3), "sqrt_d", True), "are equal"),
        ((torch.tensor([[1.0, 2.0], [math.nan, 0.0]]), "none"), "row 1 holds NaN"),
        ((torch.zeros(0, 3), "none"), "needs rows"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(UserError, match=message):
        Normaliser.fit(*arguments)

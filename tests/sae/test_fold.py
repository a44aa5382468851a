import pytest
import torch

from sae_lightning.activations.normalise import Normaliser
from sae_lightning.core import UserError
from sae_lightning.sae import fold, unfold
from tests.sae.naive_sae import ARCHITECTURES, build

# Layer norm centres each row itself and takes no centring.
NORMALISATIONS = [
    *[(mode, centre) for mode in ("none", "sqrt_d", "rms", "centre") for centre in (False, True)],
    ("layer_norm", False),
]
SAE_OPTIONS = [
    {},
    {"rescale_acts_by_decoder_norm": True},
    {"subtract_b_dec": False, "skip": True},
    {"rescale_acts_by_decoder_norm": True, "subtract_b_dec": False},
]


def raw(gamma=1.0, n=400, d=12, seed=3, scale=7.0):
    generator = torch.Generator().manual_seed(seed)
    offset = torch.randn(d, generator=generator)
    return scale * (torch.randn(n, d, generator=generator) + gamma * offset * (d**0.5 / offset.norm()))


def gap(sae, normaliser, x):
    """Largest difference per output, relative to the spread of the data, and the folded SAE."""
    sae.eval()
    folded = fold(sae, normaliser)
    with torch.no_grad():
        expected, found = normaliser.undo(sae(normaliser.apply(x)).y_hat, x), folded(x).y_hat
    spread = (x - x.mean(0)).square().mean().sqrt()
    return float((found - expected).abs().max() / spread), folded


def trained_threshold(sae, normaliser, x):
    if hasattr(sae, "threshold"):
        sae.calibrate_threshold([normaliser.apply(x)], 4.0)


@pytest.mark.parametrize("options", SAE_OPTIONS, ids=lambda o: "+".join(o) or "plain")
@pytest.mark.parametrize(("mode", "centre"), NORMALISATIONS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_folded_sae_reproduces_the_trained_one_on_raw_rows(name, mode, centre, options):
    x = raw()
    normaliser = Normaliser.fit(x, mode, centre)
    sae = build(name, **options)
    trained_threshold(sae, normaliser, x)
    before = {key: value.clone() for key, value in sae.state_dict().items()}
    difference, folded = gap(sae, normaliser, x)
    assert difference < 1e-5
    assert not folded.training
    assert not folded.rescale_acts_by_decoder_norm
    assert all(torch.equal(before[key], value) for key, value in sae.state_dict().items())
    # Features fire on the same rows, and where they scale freely they have raw units: unit decoder rows.
    assert torch.equal(folded.encode(x).dense() != 0, sae.encode(normaliser.apply(x)).dense() != 0)
    if folded.features_scale_freely:
        torch.testing.assert_close(folded.W_dec.norm(dim=1), torch.ones(40))


@pytest.mark.parametrize("selection", ["abs_topk", "group_max"])
def test_other_selections(selection):
    x = raw()
    assert gap(build("topk", selection=selection), Normaliser.fit(x, "rms", True), x)[0] < 1e-5


@pytest.mark.parametrize("mode", ["none", "sqrt_d", "rms", "centre"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_far_from_the_origin(name, mode):
    """gamma = 50: raw float32 rows have 1/50 of their digits left, so the bound is 50 times wider."""
    x = raw(gamma=50.0)
    normaliser = Normaliser.fit(x, mode, "auto")
    assert normaliser.centre
    sae = build(name)
    trained_threshold(sae, normaliser, x)
    assert gap(sae, normaliser, x)[0] < 5e-4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_transcoder_with_statistics_of_its_own_at_each_site(name):
    x, y = raw(), raw(gamma=4.0, d=5, seed=8, scale=0.3)
    normaliser = Normaliser.fit(x, "sqrt_d", True, y=y)
    sae = build(name, d_out=5, skip=True)
    trained_threshold(sae, normaliser, x)
    assert gap(sae, normaliser, x)[0] < 1e-5
    same_width = Normaliser.fit(x, "rms", True, y=raw(gamma=2.0, seed=9))
    assert gap(build(name), same_width, x)[0] < 2e-5 or hasattr(sae, "threshold")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_crosscoder_with_a_scale_per_site(name):
    x = torch.cat([raw(d=5), raw(d=7, seed=5, scale=200.0)], dim=1)
    normaliser = Normaliser.fit(x, "sqrt_d", True, widths=[5, 7])
    sae = build(name, rescale_acts_by_decoder_norm=True, site_widths=(5, 7))
    trained_threshold(sae, normaliser, x)
    difference, folded = gap(sae, normaliser, x)
    assert difference < 1e-5
    assert torch.equal(folded.encode(x).dense() != 0, sae.encode(normaliser.apply(x)).dense() != 0)
    norms = sum(part.norm(dim=1) for part in folded.W_dec.detach().split([5, 7], dim=1))
    if folded.features_scale_freely:
        torch.testing.assert_close(norms, torch.ones(40))
    else:
        assert norms.mean() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("options", [*SAE_OPTIONS, {"site_widths": (5, 7)}], ids=lambda o: "+".join(o) or "plain")
@pytest.mark.parametrize(("mode", "centre"), NORMALISATIONS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_unfolding_gives_an_sae_of_normalised_rows_that_folds_back(name, mode, centre, options):
    x = torch.cat([raw(d=5), raw(d=7, seed=5, scale=30.0)], dim=1)
    widths = None if mode == "layer_norm" else options.get("site_widths")
    normaliser = Normaliser.fit(x, mode, centre, widths=widths)
    sae = build(name, **options)
    trained_threshold(sae, normaliser, x)
    folded = fold(sae, normaliser)
    unfolded = unfold(folded, normaliser)
    with torch.no_grad():
        out, expected = unfolded(normaliser.apply(x)), folded(x)
        torch.testing.assert_close(normaliser.undo(out.y_hat, x), expected.y_hat, rtol=1e-4, atol=1e-3)
        assert torch.equal(out.features.dense() != 0, expected.features.dense() != 0)
    assert not unfolded.layer_norm
    again = fold(unfolded, normaliser)
    assert again.options() == folded.options()
    for key, value in folded.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=1e-4, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", ["standard", "batch_topk"])
def test_unfolding_what_was_trained_at_other_scales(name):
    """Fine-tuning on new text: the normaliser is another one, and what the SAE does on raw rows stays."""
    x, y = raw(), raw(gamma=4.0, d=5, seed=8, scale=0.3)
    sae = build(name, d_out=5, skip=True, subtract_b_dec=False)
    folded = fold(sae, Normaliser.fit(x, "sqrt_d", True, y=y))
    other = Normaliser.fit(3 * x[:50], "rms", False, y=2 * y[:50])
    unfolded = unfold(folded, other)
    with torch.no_grad():
        found = other.undo(unfolded(other.apply(x)).y_hat, x)
        torch.testing.assert_close(found, folded(x).y_hat, rtol=1e-4, atol=1e-4)


def test_unfolding_layer_norm():
    x = raw()
    with pytest.raises(UserError, match="not trained on layer-normalised rows"):
        unfold(fold(build("topk"), Normaliser.fit(x, "rms", True)), Normaliser.fit(x, "layer_norm", False))
    with pytest.raises(UserError, match="layer-normalises"):
        unfold(fold(build("topk"), Normaliser.fit(x, "layer_norm", False)), Normaliser.fit(x, "rms", True))


def test_dead_decoder_rows_fold():
    x = raw()
    sae = build("standard")
    with torch.no_grad():
        sae.W_dec[3] = 0
    assert gap(sae, Normaliser.fit(x, "rms", True), x)[0] < 1e-5


def test_layer_norm_inside_and_scaling_outside_contradict_each_other():
    x = raw()
    sae = build("topk", layer_norm=True)
    with pytest.raises(UserError, match="layer-normalises"):
        fold(sae, Normaliser.fit(x, "rms", True))
    assert gap(sae, Normaliser.fit(x, "none", False), x)[0] < 1e-5

import pytest
import torch

from sae_lightning.activations import Harvester, MaskPolicy, calibrate, describe
from sae_lightning.core import Sites, UserError

from .conftest import SITE


def test_sample_mask_and_statistics_fit_together(tools):
    base = tools.harvester.with_mask(MaskPolicy(tools.lm.special_ids, norm_multiple=1.02))
    out = calibrate(base, 300, seed=1)
    norms = out.sample.norm(dim=1)
    assert out.sample.dtype == torch.float32
    assert out.y_sample is out.sample
    assert len(out.sample) <= 300
    assert out.mask.median_norm is not None
    assert float(norms.max()) <= 1.02 * out.mask.median_norm
    assert out.stats.n == len(out.sample)
    assert out.stats.max_norm == pytest.approx(float(norms.max()))
    assert 0 < out.stats.masked_share < 1
    assert 0 < out.stats.masked_energy_share < 1


def test_median_is_that_of_the_unmasked_tokens(tools):
    """Against all windows at once, through the public pieces."""
    n = len(tools.windows)
    _, x, keep = tools.harvester.with_mask(MaskPolicy(tools.lm.special_ids, norm_multiple=None)).full(range(n))
    expected = x[keep].float().norm(dim=1).double().quantile(0.5)
    out = calibrate(tools.harvester, 10**6, seed=0)
    assert out.mask.median_norm == pytest.approx(float(expected), rel=1e-5)
    assert out.stats.masked_share == pytest.approx(
        1 - float(keep.sum()) / int((tools.windows.batch(range(n)).token_index >= 0).sum())
    )


def test_seeded_and_repeatable(tools):
    a, b, c = (calibrate(tools.harvester, 200, seed=s).sample for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_transcoders_get_target_samples(tools):
    sites = Sites((SITE,), ("blocks.0.mlp.hook_post",))
    out = calibrate(Harvester(tools.lm, sites, tools.windows, MaskPolicy(tools.lm.special_ids), 4), 100, seed=0)
    assert out.y_sample.shape == (len(out.sample), 128)


def test_a_mask_that_leaves_nothing_is_told(tools):
    with pytest.raises(UserError, match="leaves no token"):
        calibrate(tools.harvester.with_mask(MaskPolicy(tuple(range(257)))), 100, seed=0)


def test_describe_equals_the_naive_formulas():
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)).double() + 1
    norms = torch.cat([x.norm(dim=1), torch.full((20,), 50.0).double()])
    keep = torch.arange(520) < 500
    stats = describe(x, norms=norms, keep=keep)
    assert stats.masked_share == pytest.approx(20 / 520)
    assert stats.masked_energy_share == pytest.approx(float(20 * 2500 / (x.square().sum() + 20 * 2500)))
    assert stats.median_norm == pytest.approx(float(x.norm(dim=1).median()))

import io

import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.sae import BatchTopKSAE, initialise
from tests.sae.naive_sae import build


def batches(count=4, n=50, d=12, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n + i, d, generator=generator) for i in range(count)]


def test_threshold_follows_the_smallest_positive_activation():
    sae = build("batch_topk", threshold_rate=0.25)
    expected = None
    for x in batches():
        values = sae(x).features.values.detach()
        smallest = float(values[values > 0].double().min())
        expected = smallest if expected is None else 0.75 * expected + 0.25 * smallest
        assert float(sae.threshold) == pytest.approx(expected, abs=1e-15)
    sae.eval()
    sae(batches()[0])
    assert float(sae.threshold) == pytest.approx(expected, abs=1e-15)


def test_a_batch_without_activations_leaves_the_threshold():
    sae = build("batch_topk")
    sae(batches()[0])
    before = sae.threshold.clone()
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    out = sae(batches()[1])
    assert torch.equal(sae.threshold, before)
    torch.testing.assert_close(out.y_hat, sae.b_dec.expand(51, -1))


def test_training_keeps_k_per_row_on_average_even_on_one_row():
    sae = build("batch_topk")
    x = batches()[0]
    x[9] *= 100
    l0 = sae(x).features.l0()
    assert l0.sum() == 4 * 50
    assert l0[9] > 4


@pytest.mark.parametrize("target", [0.1, 1.0, 3.7, 10.0])
@pytest.mark.parametrize("name", ["batch_topk", "matryoshka"])
def test_calibration_is_the_exact_order_statistic(name, target):
    sae = build(name)
    rows = batches()
    value = sae.calibrate_threshold(iter(rows), target)
    z = sae.pre_acts(torch.cat(rows)).detach().flatten().sort(descending=True).values
    count = round(target * len(torch.cat(rows)))
    per_batch = torch.cat([sae.pre_acts(x).detach().flatten() for x in rows]).sort(descending=True).values
    assert value == (per_batch[count - 1].double() + per_batch[count].double()) / 2
    assert float(sae.threshold) == value
    sae.eval()
    assert int(sum(sae.encode(x).l0().sum() for x in rows)) == count
    assert z[count] <= value <= z[count - 1]


def test_calibration_edge_cases():
    sae = build("batch_topk")
    assert sae.calibrate_threshold(batches(), 40.0) == 0.0
    with pytest.raises(UserError, match="no rows"):
        sae.calibrate_threshold([], 4.0)
    with pytest.raises(UserError, match="target_l0"):
        sae.calibrate_threshold(batches(), 41.0)
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.fill_(-1).index_fill_(0, torch.tensor([3, 5]), 0.75)
    assert sae.calibrate_threshold(batches(), 1.0) == 0.75
    assert sae.calibrate_threshold(batches(), 2.0) == 0.75 / 2
    assert sae.calibrate_threshold(batches(), 2.5) == 0.0


def test_threshold_stays_float64():
    sae = build("batch_topk")
    sae.threshold.fill_(1 / 3)
    for moved in (sae.to(torch.bfloat16), sae.half(), sae.float()):
        assert moved.threshold.dtype == torch.float64
        assert float(moved.threshold) == 1 / 3
    file = io.BytesIO()
    torch.save(sae.state_dict(), file)
    file.seek(0)
    other = build("batch_topk", seed=1)
    other.load_state_dict(torch.load(file))
    assert float(other.threshold) == 1 / 3


def test_another_k_for_multi_topk():
    sae = build("batch_topk").eval()
    x = batches()[0]
    z = sae.pre_acts(x).detach()
    features = sae.encode_at(x, 7, z)
    assert torch.equal(features.dense(), sae.encode_at(x, 7).dense())
    assert int(features.l0().sum()) == 7 * 50
    assert features.values.min() >= z.relu()[features.dense() == 0].max()


@pytest.mark.parametrize("block_bytes", [1 << 20, 700])
def test_calibration_goes_by_in_blocks(block_bytes):
    sae = BatchTopKSAE(6, 40, k=5)
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    initialise(sae, x, seed=0)
    whole = sae.calibrate_threshold([x[:50], x[50:]])
    sae.execution.block_bytes = block_bytes
    assert sae.calibrate_threshold([x[:50], x[50:]]) == pytest.approx(whole, rel=1e-6)
    assert float(sae.eval().encode(x).l0().float().mean()) == pytest.approx(5)


def test_no_rows_at_all():
    sae = BatchTopKSAE(5, 11, k=2).train()
    assert sae(torch.randn(0, 5)).y_hat.shape == (0, 5)

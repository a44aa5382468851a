import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lightning.sae.kernels import above, batch_top_k, group_max, row_top_k
from sae_lightning.sae.kernels import select as selection


def mask_of(pairs, n, d_sae):
    indices, offsets = pairs
    mask = torch.zeros(n, d_sae, dtype=torch.bool)
    rows = torch.repeat_interleave(torch.arange(n), offsets.diff())
    assert len(offsets) == n + 1
    assert int(offsets[-1]) == len(indices)
    mask[rows, indices] = True
    assert int(mask.sum()) == len(indices), "a pair was given twice"
    return mask


def naive_batch(z, count):
    """Largest first, the earlier place first among equals; positive ones only."""
    order = sorted(range(z.numel()), key=lambda place: (-float(z.flatten()[place]), place))
    mask = torch.zeros(z.numel(), dtype=torch.bool)
    mask[[place for place in order[:count] if z.flatten()[place] > 0]] = True
    return mask.view(z.shape)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 7),
    d_sae=st.integers(1, 12),
    share=st.floats(0.05, 1.0),
    levels=st.sampled_from([2, 5, 1000]),
    shift=st.sampled_from([-1.0, 0.0, 1.0]),
    seed=st.integers(0, 999),
)
def test_batch_top_k_is_exact_with_ties(n, d_sae, share, levels, shift, seed):
    z = torch.randn(n, d_sae, generator=torch.Generator().manual_seed(seed)) + shift
    z = (z * levels / 10).round() * 10 / levels
    count = max(1, int(share * n * d_sae))
    assert torch.equal(mask_of(batch_top_k(z, count), n, d_sae), naive_batch(z, count))


def test_batch_top_k_on_sampled_sizes():
    generator = torch.Generator().manual_seed(0)
    for n, d_sae, k in ((600, 1000, 3), (600, 1000, 700)):
        z = torch.randn(n, d_sae, generator=generator)
        expected = torch.zeros(n * d_sae, dtype=torch.bool)
        expected[z.flatten().topk(k * n).indices] = True
        expected &= z.flatten() > 0
        assert torch.equal(mask_of(batch_top_k(z, k * n), n, d_sae), expected.view(n, d_sae))


def test_a_row_may_take_all(monkeypatch):
    z = torch.rand(50, 400, generator=torch.Generator().manual_seed(0))
    z[7] += 10
    mask = mask_of(batch_top_k(z, 100), 50, 400)
    assert mask[7].sum() == 100
    # A bound that is far too high only costs time.
    monkeypatch.setattr(selection, "_lower_bound", lambda *_: 1e9)
    assert torch.equal(mask_of(batch_top_k(z, 100), 50, 400), mask)


def test_nan_is_selected_and_not_hidden():
    z = torch.randn(20, 100, generator=torch.Generator().manual_seed(0))
    z[3, 5] = math.nan
    assert mask_of(batch_top_k(z, 40), 20, 100)[3, 5]
    assert mask_of(row_top_k(z, 2), 20, 100)[3, 5]


def test_row_top_k_ties_do_not_depend_on_the_batch():
    z = torch.randint(0, 4, (300, 257), generator=torch.Generator().manual_seed(0)).float()
    together, _ = row_top_k(z, 9)
    alone = torch.cat([row_top_k(row[None], 9)[0] for row in z])
    assert torch.equal(together, alone)
    assert torch.equal(together, row_top_k(z.clone(), 9)[0])
    values = z.gather(1, together.view(300, 9))
    assert torch.equal(values, z.sort(1, descending=True).values[:, :9])


def test_group_max_takes_one_of_each_group():
    z = torch.randn(30, 24, generator=torch.Generator().manual_seed(0))
    mask = mask_of(group_max(z, 6), 30, 24).view(30, 6, 4)
    assert (mask.sum(-1) == 1).all()
    assert torch.equal(z.view(30, 6, 4)[mask].view(30, 6), z.view(30, 6, 4).amax(-1))


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-3, 100), st.sampled_from([torch.float32, torch.bfloat16]))
def test_above_compares_exactly(threshold, dtype):
    t = torch.tensor(threshold, dtype=torch.float64)
    near = t.to(dtype)
    z = torch.stack([near, torch.nextafter(near, torch.tensor(0.0, dtype=dtype)), torch.nextafter(near, near * 2)])
    kept = mask_of(above(z[None], t), 1, 3)[0]
    assert kept.tolist() == [float(value) > threshold for value in z]

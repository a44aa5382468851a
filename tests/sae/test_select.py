import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lightning.sae.kernels import Above, BatchTopK, GroupMax, RowTopK
from sae_lightning.sae.kernels import select as selection


def fed(selector, z, width=None):
    """Feed z in blocks of ``width`` features; each block is overwritten once it has been seen."""
    width = z.shape[1] if width is None else width
    for first in range(0, z.shape[1], width):
        block = z[:, first : first + width].clone()
        selector.add(block, first)
        block.fill_(math.nan)
    return selector.chosen()


def batch_top_k(z, count, width=None):
    return fed(BatchTopK(count, z.shape[1]), z, width)


def row_top_k(z, k, width=None):
    return fed(RowTopK(k), z, width)


def mask_of(chosen, n, d_sae):
    indices, offsets, _ = chosen
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
    width=st.integers(1, 12),
)
def test_batch_top_k_is_exact_with_ties_however_it_is_cut_up(n, d_sae, share, levels, shift, seed, width):
    z = torch.randn(n, d_sae, generator=torch.Generator().manual_seed(seed)) + shift
    z = (z * levels / 10).round() * 10 / levels
    count = max(1, int(share * n * d_sae))
    chosen = batch_top_k(z, count, width)
    mask = mask_of(chosen, n, d_sae)
    assert torch.equal(mask, naive_batch(z, count))
    assert torch.equal(chosen.scores, z[mask])


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
    together = row_top_k(z, 9).indices
    alone = torch.cat([row_top_k(row[None], 9).indices for row in z])
    assert torch.equal(together, alone)
    assert torch.equal(together, row_top_k(z.clone(), 9).indices)
    values = z.gather(1, together.view(300, 9))
    assert torch.equal(values, z.sort(1, descending=True).values[:, :9])


def test_group_max_takes_one_of_each_group():
    z = torch.randn(30, 24, generator=torch.Generator().manual_seed(0))
    mask = mask_of(fed(GroupMax(4), z, 8), 30, 24).view(30, 6, 4)
    assert (mask.sum(-1) == 1).all()
    assert torch.equal(z.view(30, 6, 4)[mask].view(30, 6), z.view(30, 6, 4).amax(-1))


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-3, 100), st.sampled_from([torch.float32, torch.bfloat16]))
def test_above_compares_exactly(threshold, dtype):
    t = torch.tensor(threshold, dtype=torch.float64)
    near = t.to(dtype)
    z = torch.stack([near, torch.nextafter(near, torch.tensor(0.0, dtype=dtype)), torch.nextafter(near, near * 2)])
    kept = mask_of(fed(Above(t, 3), z[None], 2), 1, 3)[0]
    assert kept.tolist() == [float(value) > threshold for value in z]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 6),
    d_sae=st.integers(1, 14),
    k=st.integers(1, 14),
    width=st.integers(1, 14),
    signed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_row_top_k_in_blocks_keeps_what_a_sort_keeps(n, d_sae, k, width, signed, seed):
    z = torch.randn(n, d_sae, generator=torch.Generator().manual_seed(seed))
    chosen = fed(RowTopK(k, signed), z, width)
    by = z.abs() if signed else z
    expected = by.sort(1, descending=True).indices[:, : min(k, d_sae)]
    assert torch.equal(chosen.indices.view(n, -1), expected)
    assert torch.equal(chosen.scores.view(n, -1), z.gather(1, expected))


@settings(max_examples=30, deadline=None)
@given(batch=st.booleans(), seed=st.integers(0, 99), width=st.integers(3, 40))
def test_candidates_of_rounded_scores_hold_what_exact_ones_keep(batch, seed, width):
    z = torch.randn(30, 40, generator=torch.Generator().manual_seed(seed)) + 0.5
    selector = BatchTopK(300, 40) if batch else RowTopK(10)
    candidates = fed(selector.wider(), z.bfloat16(), width)
    rows = torch.repeat_interleave(torch.arange(30), candidates.offsets.diff())
    narrow = selector.among(candidates._replace(scores=z[rows, candidates.indices]))
    exact = batch_top_k(z, 300) if batch else row_top_k(z, 10)
    # Rounding moves a score by 0.4 %; a tenth more candidates than are kept leave far more room than that.
    assert torch.equal(mask_of(narrow, 30, 40), mask_of(exact, 30, 40))
    assert torch.equal(narrow.scores, exact.scores)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), width=st.sampled_from([4, 8, 24]))
def test_candidates_of_groups_hold_the_exact_maximum(seed, width):
    z = torch.randn(30, 24, generator=torch.Generator().manual_seed(seed))
    selector = GroupMax(4)
    candidates = fed(selector.wider(), z.bfloat16(), width)
    rows = torch.repeat_interleave(torch.arange(30), candidates.offsets.diff())
    narrow = selector.among(candidates._replace(scores=z[rows, candidates.indices]))
    exact = fed(GroupMax(4), z)
    assert torch.equal(narrow.indices, exact.indices)
    assert torch.equal(narrow.scores, exact.scores)

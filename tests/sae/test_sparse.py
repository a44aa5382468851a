import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lightning.sae.kernels import gather_features, pattern_of, sparse_decode, sparse_encode
from sae_lightning.sae.kernels.select import row_top_k


def ragged(n, d_sae, seed, empty=True):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n, d_sae, generator=generator) < 0.3
    if empty and n > 1:
        mask[0] = False
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
    return mask, mask.nonzero()[:, 1].contiguous(), offsets


def doubles(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 6), d_sae=st.integers(1, 9), d=st.integers(1, 5), seed=st.integers(0, 99))
def test_products_and_gradients_equal_dense_ones(n, d_sae, d, seed):
    mask, indices, offsets = ragged(n, d_sae, seed)
    pattern = pattern_of(indices, offsets, d_sae)
    x, b_dec, W_enc, b_enc, W_dec, vector, weight = doubles(
        (n, d), (d,), (d, d_sae), (d_sae,), (d_sae, d), (d_sae,), (n, d), seed=seed
    )
    inputs = [x, b_dec, W_enc, b_enc, W_dec, vector]
    z = (x - b_dec) @ W_enc + b_enc
    f = (z.tanh() * vector) * mask
    dense = (f @ W_dec * weight).sum()
    expected = torch.autograd.grad(dense, inputs)
    for given_z in (None, z.detach()[mask]):
        values = sparse_encode(x, b_dec, W_enc, b_enc, pattern, given_z)
        torch.testing.assert_close(values, z[mask], rtol=1e-10, atol=1e-10)
        y = sparse_decode(values.tanh() * gather_features(vector, pattern), pattern, W_dec)
        torch.testing.assert_close(y, f @ W_dec, rtol=1e-10, atol=1e-10)
        gradients = torch.autograd.grad((y * weight).sum(), inputs)
        for gradient, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-9)


def test_gradcheck():
    _, indices, offsets = ragged(4, 6, 3)
    pattern = pattern_of(indices, offsets, 6)
    x, b_dec, W_enc, b_enc, W_dec, vector = doubles((4, 5), (5,), (5, 6), (6,), (6, 5), (6,))
    values = torch.randn(len(indices), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, w: sparse_decode(v, pattern, w), (values, W_dec))
    assert torch.autograd.gradcheck(lambda *a: sparse_encode(*a, pattern), (x, b_dec, W_enc, b_enc))
    assert torch.autograd.gradcheck(lambda *a: sparse_encode(a[0], None, *a[1:], pattern), (x, W_enc, b_enc))
    assert torch.autograd.gradcheck(lambda v: gather_features(v, pattern), (vector,))


def test_nothing_active():
    pattern = pattern_of(torch.zeros(0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), 6)
    W_dec = torch.randn(6, 5, requires_grad=True)
    y = sparse_decode(torch.zeros(0, requires_grad=True), pattern, W_dec)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(3, 5))
    assert torch.equal(W_dec.grad, torch.zeros(6, 5))


def test_other_offsets_or_sizes_do_not_meet_a_stale_transpose():
    indices, offsets = torch.tensor([0, 2, 1, 2]), torch.tensor([0, 2, 4])
    for d_sae in (3, 5):
        assert pattern_of(indices, offsets, d_sae).sum_by_feature(torch.ones(4)).tolist() == [1, 1, 2, 0, 0][:d_sae]
    indices[0] = 1
    assert pattern_of(indices, offsets, 3).sum_by_feature(torch.ones(4)).tolist() == [0, 2, 2]


def step(n, d, d_sae, k, sparse, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator)
    W_enc = torch.randn(d, d_sae, generator=generator).requires_grad_()
    W_dec = torch.randn(d_sae, d, generator=generator).requires_grad_()
    b_enc, b_dec = torch.zeros(d_sae, requires_grad=True), torch.zeros(d, requires_grad=True)

    def run():
        for p in (W_enc, W_dec, b_enc, b_dec):
            p.grad = None
        if sparse:
            with torch.no_grad():
                z = torch.addmm(b_enc, x - b_dec, W_enc)
                indices, scores = (best.reshape(-1) for best in row_top_k(z, k))
            pattern = pattern_of(indices, torch.arange(n + 1) * k, d_sae)
            y = sparse_decode(sparse_encode(x, b_dec, W_enc, b_enc, pattern, scores).relu(), pattern, W_dec) + b_dec
        else:
            z = torch.addmm(b_enc, x - b_dec, W_enc)
            best = z.topk(k, dim=1)
            y = torch.zeros_like(z).scatter(1, best.indices, best.values.relu()) @ W_dec + b_dec
        (y - x).square().sum(1).mean().backward()
        return [p.grad for p in (W_enc, W_dec, b_enc, b_dec)]

    return run


def test_same_bits_every_run():
    run = step(256, 64, 1024, 16, sparse=True)
    first = [g.clone() for g in run()]
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


def test_float32_gradients_close_to_dense():
    sparse, dense = step(256, 64, 1024, 16, sparse=True)(), step(256, 64, 1024, 16, sparse=False)()
    for a, b in zip(sparse, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))

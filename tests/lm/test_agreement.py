"""The figure that tells one model from another, and what rounding may make of it."""

import pytest
import torch

from sae_lightning.lm.agreement import difference, tolerance, trial_length, trial_windows, widened

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_naive_sum() -> None:
    theirs, ours = noise(2, 40, 6) + 3, noise(2, 40, 6) + 3
    ours = ours + 0.1 * noise(2, 40, 6, seed=1)
    tokens = theirs.reshape(80, 6).float().numpy().tolist()
    middle = [sorted(column)[39] for column in zip(*tokens, strict=True)]  # torch's median: the lower of the two
    sizes = [sum((a - m) ** 2 for a, m in zip(token, middle, strict=True)) ** 0.5 for token in tokens]
    half = sorted(sizes)[39]
    off = [
        sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) ** 0.5 / max(size, half)
        for x, y, size in zip(ours.reshape(80, 6).tolist(), theirs.reshape(80, 6).tolist(), sizes, strict=True)
    ]
    worst = 0.0
    for row in (off[:40], off[40:]):
        for first in (0, 16, 32):
            part = sorted(row[first : first + 16])
            worst = max(worst, part[(len(part) - 1) // 2])
    assert difference(ours, theirs) == pytest.approx(worst, rel=1e-5)


def test_equal_is_zero_even_where_all_tokens_are_alike() -> None:
    assert difference(noise(2, 20, 4), noise(2, 20, 4)) == 0
    assert difference(torch.ones(2, 20, 4), torch.ones(2, 20, 4)) == 0
    assert difference(torch.ones(2, 20, 4), torch.ones(2, 20, 4) * 1.01) == float("inf")


def test_neither_a_huge_token_nor_a_common_mean_hides_the_others() -> None:
    theirs = noise(2, 64, 8)
    wrong = theirs + 0.3 * noise(2, 64, 8, seed=1)
    plain = difference(wrong, theirs)
    assert plain > 0.2
    for row in (0, 1):
        theirs[row, 0] *= 1e5
        wrong[row, 0] = theirs[row, 0]
    assert difference(wrong, theirs) == pytest.approx(plain, rel=0.2)
    assert difference(wrong + 1000, theirs + 1000) == pytest.approx(plain, rel=0.2)


def test_one_stretch_of_one_row_is_enough_and_one_token_is_not() -> None:
    theirs = noise(2, 64, 8)
    some = theirs.clone()
    some[1, 48:] += noise(16, 8, seed=1)
    assert difference(some, theirs) > 0.5
    one = theirs.clone()
    one[1, 50] += 100
    assert difference(one, theirs) == 0


def test_other_shapes_other_kinds_and_no_numbers_are_never_equal() -> None:
    x = noise(2, 20, 8)
    assert difference(x, x.float()) == float("inf")
    assert difference(x[:, :10], x) == float("inf")
    assert difference(x.flatten(0, 1), x) == float("inf")
    assert difference(x.view(2, 20, 2, 4), x) == 0, "heads may be split"
    broken = x.clone()
    broken[0, 3, 0] = float("nan")
    assert difference(broken, x) == float("inf")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rounding_is_allowed_and_little_more(dtype: torch.dtype) -> None:
    theirs = noise(2, 64, 256).to(dtype)
    rounded = (theirs.float() * (1 + torch.finfo(dtype).eps)).to(dtype)
    assert difference(rounded, theirs) < tolerance(dtype, CPU)
    assert difference((theirs.float() * 1.2).to(dtype), theirs) > tolerance(dtype, CPU)


def test_windows_are_always_the_same_and_move_no_generator() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = trial_windows(60, 300, CPU)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert torch.equal(trial_windows(60, 300, CPU), first)
    assert first.shape == (2, 60)
    assert int(first.max()) < 300
    assert (first[1, 40:] == 0).all()
    assert not torch.equal(first[0, 40:], first[1, 40:])


def test_as_many_positions_as_tell() -> None:
    assert trial_length(128, None) == trial_length(128, 4096) == 128
    assert trial_length(8192, None) == trial_length(8192, 512) == 1024
    assert trial_length(8192, None, wide=True) == 256
    assert 4096 < trial_length(8192, 4096, wide=True) == trial_length(8192, 4096) < 4500


def test_widening_gives_back_the_very_tensors() -> None:
    half, full, numbers = torch.randn(3, 4).bfloat16(), torch.randn(2), torch.arange(3)
    before, place = half.clone(), half.data_ptr()

    def fail_while_wide() -> None:
        with widened([half, full, half, numbers]) as wide:
            assert wide
            assert half.dtype == torch.float32
            assert torch.equal(half, before.float())
            assert numbers.dtype == torch.int64
            raise KeyError

    with pytest.raises(KeyError):
        fail_while_wide()
    assert half.dtype == torch.bfloat16
    assert half.data_ptr() == place
    assert torch.equal(half, before)
    with widened([full]) as wide:
        assert not wide
    with widened([torch.empty(1 << 28, 2, dtype=torch.bfloat16, device="meta")]) as wide:
        assert not wide, "2 GiB in float32"

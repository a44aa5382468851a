import pytest
import torch

from sae_lightning.core import ALONE, Ranks
from sae_lightning.sae import BatchTopKSAE
from sae_lightning.sae.kernels import BatchTopK, GlobalBatchTopK, GlobalRowTopK, RowTopK
from sae_lightning.sae.kernels.across import keep_largest
from tests.sae.naive_sae import build
from tests.sae.test_select import fed, mask_of
from tests.together import together


def scores(n=13, d_sae=24, dtype=torch.float32, *, ties=False):
    generator = torch.Generator().manual_seed(n)
    z = torch.randn(n, d_sae, generator=generator, dtype=torch.float64)
    return (z.mul(2).round().div(2) if ties else z).to(dtype)


# Of the whole batch: its number of rows on each rank, how many are kept, the scores' dtype, whether many are equal.
CASES = [
    ((6, 7), 40, torch.float32, False),
    ((1, 12), 40, torch.float32, True),
    ((6, 7), 61, torch.float64, False),
    ((10, 3), 61, torch.float64, True),
    ((6, 7), 40, torch.bfloat16, True),
    ((6, 7), 13 * 24, torch.float32, False),
    ((6, 7), 1, torch.float32, True),
]


def everything_across(ranks: Ranks) -> dict[str, list[torch.Tensor]]:
    out: dict[str, list[torch.Tensor]] = {"rows": [], "features": [], "row_top_k": [], "steps": []}
    for rows, count, dtype, ties in CASES:
        z = scores(dtype=dtype, ties=ties)
        first_row = sum(rows[: ranks.rank])
        own = z[first_row : first_row + rows[ranks.rank]]
        for width in (24, 9):
            chosen = fed(GlobalBatchTopK(count, 24, ranks, first_row=first_row), own, width)
            out["rows"].append(mask_of(chosen, len(own), 24))
        half = z[:, ranks.rank * 12 :][:, :12]
        chosen = fed(GlobalBatchTopK(count, 12, ranks, first=ranks.rank * 12, d_whole=24), half, 5)
        out["features"].append(mask_of(chosen, 13, 12))
    for signed in (False, True):
        z = scores()
        half = z[:, ranks.rank * 12 :][:, :12]
        out["row_top_k"].append(mask_of(fed(GlobalRowTopK(5, ranks, signed), half, 7), 13, 12))
        selector = GlobalRowTopK(5, ranks, signed)
        rough = fed(selector.wider(), half.bfloat16(), 12)
        rows = torch.repeat_interleave(torch.arange(13), rough.offsets.diff())
        chosen = selector.among(rough._replace(scores=half[rows, rough.indices]))
        out["row_top_k"].append(mask_of(chosen, 13, 12))
    sae = build("batch_topk")
    assert isinstance(sae, BatchTopKSAE)
    sae.execution.ranks = ranks
    for product in (None, torch.bfloat16):
        sae.execution.product = product
        for step in range(3):
            x = torch.randn(11, 12, generator=torch.Generator().manual_seed(step))
            own = x[:4] if ranks.rank == 0 else x[4:]
            out["steps"] += [sae(own).y_hat.detach(), sae.threshold.clone()]
    return out


@pytest.fixture(scope="module")
def two():
    return together(everything_across, 2)


def test_rows_on_two_ranks_keep_what_one_batch_would(two):
    expected = []
    for _, count, dtype, ties in CASES:
        z = scores(dtype=dtype, ties=ties)
        expected += [mask_of(fed(BatchTopK(count, 24), z), 13, 24)] * 2
    for number, mask in enumerate(expected):
        assert torch.equal(torch.cat([rank["rows"][number] for rank in two]), mask), CASES[number // 2]


def test_features_on_two_ranks_keep_what_one_batch_would(two):
    for number, (_, count, dtype, ties) in enumerate(CASES):
        mask = mask_of(fed(BatchTopK(count, 24), scores(dtype=dtype, ties=ties)), 13, 24)
        assert torch.equal(torch.cat([rank["features"][number] for rank in two], 1), mask), CASES[number]


def test_row_top_k_over_two_ranks_features(two):
    for number, signed in enumerate((False, False, True, True)):
        mask = mask_of(fed(RowTopK(5, signed), scores()), 13, 24)
        assert torch.equal(torch.cat([rank["row_top_k"][number] for rank in two], 1), mask)


def test_a_batch_top_k_sae_on_two_ranks_is_the_one_on_all_rows(two):
    sae = build("batch_topk")
    number = 0
    for product in (None, torch.bfloat16):
        sae.execution.product = product
        for step in range(3):
            x = torch.randn(11, 12, generator=torch.Generator().manual_seed(step))
            torch.testing.assert_close(torch.cat([rank["steps"][number] for rank in two]), sae(x).y_hat)
            for rank in two:
                torch.testing.assert_close(rank["steps"][number + 1], sae.threshold, rtol=1e-6, atol=0)
            number += 2


def test_nan_counts_as_largest_and_non_positive_never_counts():
    values = torch.tensor([1.0, -3.0, torch.nan, 0.0, 2.0, -0.0, torch.inf])
    places = torch.arange(7)
    assert keep_largest(values, places, 3, ALONE).tolist() == [False, False, True, False, True, False, True]
    assert keep_largest(values, places, 7, ALONE).sum() == 4

"""Units, passes and window studies: figures depend on the windows alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sae_lightning.core import ActivationBatch, Features, torch_generator
from sae_lightning.metrics import bootstrap_weights
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.studies import Result, Subject, Table, measure_all
from sae_lightning.studies.evaluation import ReconstructionStudy, SparsityStudy
from sae_lightning.studies.passes import read_unit
from sae_lightning.studies.subject import BLOCK_ROWS, inference
from sae_lightning.studies.windows import Measured, Solo
from tests.sae.naive_sae import build

D = 12


def data(n: int = 5000) -> torch.Tensor:
    return torch.randn(n, D, generator=torch_generator(2, "windows")) + 3


def some_sae(name: str = "topk") -> SparseAutoencoder:
    return build(name).eval()


def studies() -> list[ReconstructionStudy | SparsityStudy]:
    return [ReconstructionStudy(show_progress=False), SparsityStudy(show_progress=False)]


class Backwards:
    """Reads the last unit first, as another process might."""

    def __init__(self, solo: Solo) -> None:
        self.solo = solo

    def moments(self, units):
        return self.solo.moments(units[::-1])

    def measure(self, units, mean) -> Measured:
        return self.solo.measure(units[::-1], mean)


@pytest.mark.parametrize("name", ["topk", "standard", "jumprelu"])
def test_the_order_of_reading_changes_no_bit(name: str) -> None:
    subject = Subject(some_sae(name), rows=data(9000))
    forward = measure_all(subject, studies(), draws=200, show_progress=False)
    backward = measure_all(subject, studies(), draws=200, crew=Backwards(Solo(subject, studies(), show_progress=False)))
    for study, result in forward.items():
        assert result.to_json() == backward[study].to_json()
        for key, draws in result.draws.items():
            np.testing.assert_array_equal(draws, backward[study].draws[key])


def test_intervals_are_those_of_resampled_rows() -> None:
    """One study, its draws computed again the long way: rows of the drawn blocks put together."""
    x, sae = data(1100), some_sae()
    subject = Subject(sae, rows=x)
    result = measure_all(subject, [ReconstructionStudy(show_progress=False)], draws=20, seed=7)["reconstruction"]
    blocks = x.split(BLOCK_ROWS)
    weights = bootstrap_weights(len(blocks), 20, seed=7)
    for b in range(20):
        chosen = torch.cat([block for block, w in zip(blocks, weights[b], strict=True) for _ in range(int(w))]).double()
        with torch.no_grad():
            error = (sae(chosen.float()).y_hat.double() - chosen).square().sum()
        fvu = float(error / (chosen - chosen.mean(0)).square().sum())
        assert result.draws["fvu"][b] == pytest.approx(fvu, rel=1e-6)
    estimate = result.estimates["fvu"]
    assert estimate.tokens == 1100
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < estimate.value < estimate.high  # pyright: ignore[reportOperatorIssue]


def test_units_cover_every_row_once() -> None:
    batch = ActivationBatch(data(1000), torch.randn(1000, 3), torch.arange(1000) * 2)
    subject = Subject(build("topk", d_out=3).eval(), rows=batch)
    seen = []
    with inference(subject.sae):
        for numbers in subject.units():
            unit = read_unit(subject, numbers)
            seen.append(unit.token_index)
            for window in unit.windows():
                assert len(window.x) == len(window.y) == len(window.y_hat) == window.features.n_rows
    assert torch.equal(torch.cat(seen), batch.token_index)


def test_a_part_of_a_unit_has_the_bits_of_the_whole() -> None:
    subject = Subject(some_sae("standard"), rows=data(900))
    with inference(subject.sae):
        (numbers,) = subject.units()
        unit = read_unit(subject, numbers)
        part = replace(unit).head(3)
        assert len(part) == 3
        assert torch.equal(part.x, unit.x[: 3 * BLOCK_ROWS])
        assert torch.equal(part.y_hat, unit.y_hat[: 3 * BLOCK_ROWS])
        assert torch.equal(part.features.dense(), unit.features.dense()[: 3 * BLOCK_ROWS])


def test_the_chunks_of_a_wide_sae_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    import sae_lightning.studies.passes as passes

    subject = Subject(some_sae("gated"), rows=data(2000))
    with inference(subject.sae):
        whole = read_unit(subject, subject.units()[0])
        expected = whole.y_hat, whole.features.dense()
        monkeypatch.setattr(passes, "_PRE_ACTS", 64 * subject.sae.d_sae)
        again = read_unit(subject, subject.units()[0])
        torch.testing.assert_close(again.y_hat, expected[0])
        torch.testing.assert_close(again.features.dense(), expected[1])


def test_features_slice_and_join_are_rows() -> None:
    g = torch_generator(0)
    dense = torch.relu(torch.randn(40, 9, generator=g))
    dense[7:12] = 0
    whole = Features(dense, None, None, 9).sparse()
    assert torch.equal(whole.dense(), dense)
    for a, b in ((0, 40), (3, 9), (7, 12), (5, 5)):
        assert torch.equal(whole.slice(a, b).dense(), dense[a:b])
        assert torch.equal(Features(dense, None, None, 9).slice(a, b).dense(), dense[a:b])
    joined = Features.join([whole.slice(0, 8), whole.slice(8, 8), whole.slice(8, 40)])
    assert torch.equal(joined.dense(), dense)


def test_a_result_survives_json() -> None:
    result = measure_all(Subject(some_sae(), rows=data(600)), studies(), draws=50, show_progress=False)["sparsity"]
    again = Result.from_json(result.to_json())
    assert again.estimates == result.estimates
    assert again.tables == result.tables
    assert isinstance(again.tables["density_histogram"], Table)
    counts = sum(int(row[2]) for row in again.tables["density_histogram"].rows)  # pyright: ignore[reportArgumentType]
    dead = result.values["dead"]
    assert dead is not None
    assert counts == round(some_sae().d_sae * (1 - dead))

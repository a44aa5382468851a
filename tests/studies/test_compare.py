"""Comparing SAEs: noise is called noise, a small difference on the same windows is seen, other windows are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_lightning.activations import Harvester, MaskPolicy
from sae_lightning.core import Sites, UserError, torch_generator
from sae_lightning.lm import FrozenLM
from sae_lightning.metrics import interval
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.studies import Estimate, Result, Subject
from sae_lightning.studies.evaluation import CompareStudy, ReconstructionStudy, SparsityStudy
from sae_lightning.studies.evaluation.compare import NO_INTERVAL, SAME
from sae_lightning.tokens import TokenStore, Windows
from tests.conftest import planted

D = 16
STUDIES = (ReconstructionStudy(show_progress=False), SparsityStudy(show_progress=False))


def sae(noise: float, seed: int = 0, scale: float = 1.0) -> SparseAutoencoder:
    """x = ReLU(x) - ReLU(-x), but for noise in the decoder and a wrong scale."""
    one = StandardSAE(D, 2 * D)
    eye = torch.cat([torch.eye(D), -torch.eye(D)], 1)
    g = torch_generator(seed, "tests", "compare")
    with torch.no_grad():
        one.W_enc.copy_(eye)
        one.W_dec.copy_(scale * eye.T + noise * torch.randn(2 * D, D, generator=g))
    return one


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    """Rows whose size differs much from block to block: what two SAEs score goes up and down together."""
    data = torch.from_numpy(planted(40 * 128, d=D, n_true=32, p=0.1)[0])
    sizes = torch.randn(40, generator=torch_generator(3, "tests", "compare")).exp()
    return data * sizes.repeat_interleave(128)[:, None]


def compared(**subjects: Subject) -> tuple[Result, dict[tuple[str, str, str], tuple]]:
    results = {name: {study.name: study.run(subject) for study in STUDIES} for name, subject in subjects.items()}
    found = CompareStudy().run_all(subjects, results)
    table = found.tables["differences"]
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return found, {(r["metric"], r["a"], r["b"]): (r["difference"], r["low"], r["high"], r["verdict"]) for r in rows}


def test_an_sae_cannot_be_told_from_itself(rows: torch.Tensor) -> None:
    found, differences = compared(a=Subject(sae(0.1), rows=rows), b=Subject(sae(0.1), rows=rows))
    assert {row[:3] for row in differences.values()} == {(0.0, 0.0, 0.0)}
    assert {row[3] for row in differences.values()} == {SAME}
    assert set(ReconstructionStudy(show_progress=False).run(Subject(sae(0.1), rows=rows)).estimates) <= {
        metric for metric, *_ in differences
    }
    assert found.notes == ()


def test_a_small_difference_is_seen_where_the_two_intervals_overlap(rows: torch.Tensor) -> None:
    """Both are scored on the same windows, so what is hard for both cancels."""
    subjects = {"good": Subject(sae(0.10), rows=rows), "bad": Subject(sae(0.11), rows=rows)}
    _, differences = compared(**subjects)
    alone = {name: STUDIES[0].run(subject).estimates["mse"] for name, subject in subjects.items()}
    assert alone["bad"].low < alone["good"].value < alone["bad"].value < alone["good"].high  # type: ignore[operator]
    difference, low, high, verdict = differences["mse", "good", "bad"]
    assert difference == pytest.approx(alone["good"].value - alone["bad"].value)  # type: ignore[operator]
    assert low < difference < high < 0
    assert verdict == differences["explained_variance", "good", "bad"][3] == "good better"
    swapped = compared(bad=subjects["bad"], good=subjects["good"])[1]["mse", "bad", "good"]
    assert swapped[3] == "good better"
    assert swapped[1] == pytest.approx(-high)


def test_noise_is_called_noise(rows: torch.Tensor) -> None:
    """The same recipe with two seeds, on few windows: an unlucky seed may differ, most do not."""
    verdicts = []
    for seed in range(4):
        few = rows[seed * 1280 : seed * 1280 + 1280]
        _, differences = compared(
            a=Subject(sae(0.1, seed=2 * seed), rows=few), b=Subject(sae(0.1, seed=2 * seed + 1), rows=few)
        )
        verdicts.append(differences["l0", "a", "b"][3])
        difference, low, high, verdict = differences["fvu", "a", "b"]
        assert (verdict == SAME) == (low <= 0 <= high)
        assert low <= difference <= high
    assert verdicts == [SAME] * 4  # the encoders are the same


@pytest.mark.parametrize(
    ("one", "other", "verdict"), [(0.9, 0.5, "a better"), (0.5, 0.9, "b better"), (1.5, 0.9, "b better")]
)
def test_a_length_ratio_is_better_the_nearer_to_1(rows: torch.Tensor, one: float, other: float, verdict: str) -> None:
    _, differences = compared(a=Subject(sae(0, scale=one), rows=rows), b=Subject(sae(0, scale=other), rows=rows))
    assert differences["l2_ratio", "a", "b"][3] == verdict


def test_equally_far_from_1_is_no_better(rows: torch.Tensor) -> None:
    _, differences = compared(a=Subject(sae(0, scale=1.25), rows=rows), b=Subject(sae(0, scale=0.75), rows=rows))
    assert differences["l2_ratio", "a", "b"][3] == "a higher"
    assert differences["fvu", "a", "b"][3] == SAME


def test_every_pair_is_compared_and_values_that_are_not_there_are_left_out(rows: torch.Tensor) -> None:
    subjects = {name: Subject(sae(0.1, seed), rows=rows) for seed, name in enumerate("abc")}
    results = {name: {"reconstruction": STUDIES[0].run(subject)} for name, subject in subjects.items()}
    fvu = results["b"]["reconstruction"].estimates["fvu"]
    undefined = {**results["b"]["reconstruction"].estimates, "fvu": Estimate(None, None, None, fvu.tokens)}
    results["b"]["reconstruction"] = replace(results["b"]["reconstruction"], estimates=undefined)
    results["c"]["only_here"] = Result({"x": Estimate(1.0, 0.0, 2.0, 1)}, draws={"x": np.zeros(1000)})
    rows_of = CompareStudy().run_all(subjects, results).tables["differences"].rows
    assert [row[2:4] for row in rows_of if row[1] == "mse"] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [row[2:4] for row in rows_of if row[1] == "fvu"] == [("a", "c")]
    assert not [row for row in rows_of if row[1] == "x"]


def test_too_few_windows_for_an_interval_give_no_verdict(rows: torch.Tensor) -> None:
    few = rows[: 3 * 128]
    _, differences = compared(a=Subject(sae(0.1), rows=few), b=Subject(sae(0.5), rows=few))
    assert {row[1:] for row in differences.values()} == {(None, None, NO_INTERVAL)}


def test_other_windows_are_refused(rows: torch.Tensor) -> None:
    subjects = {"a": Subject(sae(0.1), rows=rows), "b": Subject(sae(0.1), rows=rows[:1000])}
    with pytest.raises(UserError, match=r"compare: a and b are measured on different windows.*; evaluate them on"):
        CompareStudy().run_all(subjects, {"a": {}, "b": {}})
    with pytest.raises(UserError, match="compare: needs at least two SAEs"):
        CompareStudy().run_all({"a": subjects["a"]}, {"a": {}})


def test_under_different_masks_differences_are_unpaired_and_said_to_be(tmp_path: Path) -> None:
    lm = FrozenLM.load("tiny", dtype="float32", seed=3)
    path = tmp_path / "ids.bin"
    ids = np.random.default_rng(0).integers(0, 256, 24 * 40)
    path.write_bytes(np.append(ids, 65535).astype("<u2").tobytes())
    windows = Windows(TokenStore.open(path, "uint16", 65535), "all", context_length=24, separator_id=256)
    site = "blocks.1.hook_resid_post"

    def subject(one: SparseAutoencoder, special: tuple[int, ...]) -> Subject:
        mask = MaskPolicy(special_ids=special, norm_multiple=None)
        return Subject(one, lm, Harvester(lm, Sites((site,), (site,)), windows, mask), range(40))

    g = torch_generator(1)
    one, other = (StandardSAE(lm.d_model, 64) for _ in range(2))
    for each in (one, other):
        each.W_enc.data = torch.randn(lm.d_model, 64, generator=g)
        each.W_dec.data = 0.02 * torch.randn(64, lm.d_model, generator=g)
    same, paired = compared(a=subject(one, (1,)), b=subject(other, (1,)))
    assert same.notes == ()
    different, unpaired = compared(a=subject(one, (1,)), b=subject(other, (1, 2)))
    assert different.notes == ("different masks, so differences are not paired token by token: a and b",)
    width = {
        name: found["mse", "a", "b"][2] - found["mse", "a", "b"][1] for name, found in (("p", paired), ("u", unpaired))
    }
    assert width["u"] > 1.2 * width["p"]


def estimated(values: np.ndarray, weights: np.ndarray) -> Result:
    """A study of one figure, the mean over windows."""
    draws, value = weights @ values, float(values.mean())
    found = interval(value, draws, len(values))
    assert found is not None
    return Result({"loss": Estimate(value, *found, len(values))}, draws={"loss": draws})


@pytest.mark.parametrize("n", [10, 200])
def test_paired_intervals_cover(rows: torch.Tensor, n: int) -> None:
    """Differences of means of windows that are hard or easy for both: 92 to 98 of 100 hold the true difference.

    Few windows too: the difference's interval is widened as those of the two figures are.
    """
    rng = np.random.default_rng(n)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=1000) / n
    subjects = {name: Subject(sae(0.1), rows=rows) for name in "ab"}
    resamples, hits, width = 400, 0, 0.0
    for _ in range(resamples):
        hard = rng.standard_t(5, n)
        a, b = hard + rng.normal(0.1, 0.3, n), hard + rng.normal(0, 0.3, n)
        results = {name: {"study": estimated(values, weights)} for name, values in (("a", a), ("b", b))}
        (row,) = CompareStudy().run_all(subjects, results).tables["differences"].rows
        _, low, high = row[6:9]
        hits += low <= 0.1 <= high  # type: ignore[operator]
        width += high - low  # type: ignore[operator]
    assert 0.92 <= hits / resamples <= 0.98
    if n == 200:
        assert width / resamples < 0.2  # unpaired ones are about 0.5 wide


def test_a_constant_figure_does_not_widen_the_difference(rows: torch.Tensor) -> None:
    """The l0 of a top-k SAE has no spread at all: the interval of the difference is the other's."""
    rng = np.random.default_rng(0)
    weights = rng.multinomial(100, np.full(100, 0.01), size=1000) / 100
    moving = estimated(rng.normal(16, 2, 100), weights)
    results = {"a": {"study": moving}, "b": {"study": estimated(np.full(100, 16.0), weights)}}
    found = CompareStudy().run_all({name: Subject(sae(0.1), rows=rows) for name in "ab"}, results)
    (difference,) = found.estimates.values()
    alone = moving.estimates["loss"]
    assert difference.low == pytest.approx(alone.low - 16, rel=0.02)  # type: ignore[operator]
    assert difference.high == pytest.approx(alone.high - 16, rel=0.02)  # type: ignore[operator]

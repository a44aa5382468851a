"""Nearest features against all pairs in dense arrays, for each measure, in blocks, and written to a file."""

import numpy as np
import pytest
import torch

from sae_lightning.core import UserError, torch_generator
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.studies import Subject
from sae_lightning.studies.analysis import similarity as module
from sae_lightning.studies.analysis.similarity import SimilarityStudy

MEASURES = ("cosine", "dot", "euclidean")


def rows(n: int = 40, d: int = 6) -> torch.Tensor:
    """Random rows of different lengths, of which two are equal, one is another's opposite, and two are empty."""
    W = torch.randn(n, d, generator=torch_generator(0, "tests", "similarity"))
    W *= torch.linspace(0.2, 4, n)[:, None]
    W[7], W[11], W[13], W[20] = W[5], -W[5], 0.0, 0.0
    return W


def subject(W: torch.Tensor) -> Subject:
    sae = StandardSAE(W.shape[1], W.shape[0])
    sae.W_dec.data = W.clone()
    return Subject(sae)


def all_pairs(W: torch.Tensor, measure: str) -> np.ndarray:
    x = W.double().numpy()
    if measure == "euclidean":
        return np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1)).astype(np.float32)
    if measure == "cosine":
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        x = x / np.where(norms == 0, 1, norms)
    return (x @ x.T).astype(np.float32)


def run(W: torch.Tensor, **settings):
    study = SimilarityStudy(**{"show_progress": False, "draws": 200, **settings})
    assert study.reason(subject(W)) is None
    return study.run(subject(W))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("block", [40 * 40, 40 * 7, 1])
def test_neighbours_are_those_of_all_pairs(measure: str, block: int, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(module, "_PAIRS", block)
    W = rows()
    result = run(W, measure=measure, n=5, matrix=str(tmp_path / "all" / "pairs.npy"))
    pairs = all_pairs(W, measure)
    written = np.load(tmp_path / "all" / "pairs.npy", mmap_mode="r")
    assert written.dtype == np.float32
    np.testing.assert_allclose(written, pairs, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(written[5, [5, 7]], written[7, [7, 5]])
    found, values = result.arrays["neighbour"], result.arrays[f"neighbour_{measure}"]
    assert (found.dtype, values.dtype) == (np.int32, np.float32)
    empty = {13, 20} if measure == "cosine" else set()
    sign = 1 if measure == "euclidean" else -1
    for i in range(40):
        # As rounded as the study has them: which of two equal ones comes first is a matter of their numbers.
        others = [j for j in range(40) if j != i and j not in empty]
        expected = [] if i in empty else sorted(others, key=lambda j: (sign * written[i, j], j))[:5]
        assert found[i].tolist() == (expected or [-1] * 5)
        np.testing.assert_array_equal(values[i], written[i, expected] if expected else np.full(5, np.nan))
    assert found[5, 0] == 7 or measure == "dot"
    assert {p.name for p in (tmp_path / "all").iterdir()} == {"pairs.npy"}


@pytest.mark.parametrize("measure", MEASURES)
def test_estimates_and_table(measure: str) -> None:
    W = rows()
    result = run(W, measure=measure, shown=12)
    pairs = all_pairs(W, measure).astype(np.float64)
    np.fill_diagonal(pairs, np.inf if measure == "euclidean" else -np.inf)
    alive = np.array([i for i in range(40) if measure != "cosine" or i not in (13, 20)])
    pairs = pairs[np.ix_(alive, alive)]
    nearest = pairs.min(1) if measure == "euclidean" else pairs.max(1)
    estimate = result.estimates[f"nearest_{measure}"]
    assert estimate.value == pytest.approx(nearest.mean(), rel=1e-6)
    assert estimate.tokens == len(alive)
    assert estimate.low < estimate.value < estimate.high  # type: ignore[operator]
    if measure == "cosine":
        assert result.values["twin_share"] == pytest.approx((nearest > 0.9).mean())
        assert "2 features write nothing" in result.notes[0]
    table = result.tables["nearest"].rows
    low, high = np.triu_indices(len(alive), 1)
    key = pairs[low, high] if measure == "euclidean" else -pairs[low, high]
    order = np.lexsort((high, low, key.astype(np.float32)))[:12]
    assert [(row[0], row[1]) for row in table] == [(alive[low[i]], alive[high[i]]) for i in order]


def test_rescaled_rows_count_as_their_directions() -> None:
    W = rows()
    sae = StandardSAE(6, 40, rescale_acts_by_decoder_norm=True)
    sae.W_dec.data = W.clone()
    result = SimilarityStudy("dot", show_progress=False).run(Subject(sae))
    cosine = run(W).arrays["neighbour_cosine"]
    np.testing.assert_allclose(result.arrays["neighbour_dot"][:5], cosine[:5], rtol=1e-6)


def test_fewer_features_than_neighbours() -> None:
    result = run(torch.eye(3), n=5)
    assert result.arrays["neighbour"].tolist() == [[1, 2, -1, -1, -1], [0, 2, -1, -1, -1], [0, 1, -1, -1, -1]]
    assert np.isnan(result.arrays["neighbour_cosine"][:, 2:]).all()


def test_why_a_feature_has_no_neighbour_is_said_and_counted() -> None:
    zeros = "features write nothing and have no neighbour"
    for measure in MEASURES:
        alone = run(torch.ones(1, 3), measure=measure)
        assert alone.values[f"nearest_{measure}"] is None
        assert not alone.tables["nearest"].rows
        assert alone.notes == ("1 feature has no neighbour: there is no other",)
    W = torch.zeros(4, 3)
    assert run(W).notes == (f"4 {zeros}",)
    W[2, 1] = 2.0
    assert run(W).notes == (f"3 {zeros}", "1 feature has no neighbour: no other writes anything")
    W[1:] += 1.0
    assert run(W).notes == ("1 feature writes nothing and has no neighbour",)
    assert run(W[1:]).notes == run(W, measure="dot").notes == ()
    assert run(torch.zeros(1, 3)).notes == ("1 feature writes nothing and has no neighbour",)


def test_a_file_that_can_not_be_written_is_refused(tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"must end in \.npy"):
        SimilarityStudy(matrix="pairs.txt")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 100})())
    with pytest.raises(UserError, match="GB are free"):
        run(rows(), matrix=str(tmp_path / "pairs.npy"))
    assert not list(tmp_path.iterdir())

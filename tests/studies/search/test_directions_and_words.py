"""Neighbours by direction, and features by what they are said to mean."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.studies import Subject
from sae_lightning.studies.autointerp.explanations import Explanation, Explanations
from sae_lightning.studies.search.explained import ExplainedSearch
from sae_lightning.studies.search.geometric import GeometricSearch, read_vector
from tests.studies.search.ground import random_sae, rows_of


@pytest.mark.parametrize("options", [{}, {"rescale_acts_by_decoder_norm": True}], ids=str)
def test_neighbours_are_the_largest_cosines(options: dict[str, bool]) -> None:
    sae, other = random_sae(**options), random_sae()
    with torch.no_grad():
        other.W_dec.copy_(other.W_dec.flip(0) * 2)
        other.W_dec[3] = 0
    rows = rows_of(GeometricSearch(7, {"other": other}, "mine", n=6).run(Subject(sae)))
    for name, one in (("mine", sae), ("other", other)):
        W = one.W_dec.detach().double().numpy()
        v = sae.W_dec.detach().double().numpy()[7]
        norms = np.linalg.norm(W, axis=1)
        with np.errstate(invalid="ignore"):
            cosines = W @ v / norms / np.linalg.norm(v)
        if name == "mine":
            cosines[7] = -2
        order = sorted(range(len(W)), key=lambda i: (-np.nan_to_num(cosines[i], nan=-3), i))[:6]
        mine = [row for row in rows if row[0] == name]
        assert [row[1] for row in mine] == order
        assert [row[2] for row in mine] == pytest.approx(cosines[order].tolist())
    assert rows[6][1] == len(other.W_dec) - 1 - 7  # the same direction, in its new place
    assert rows[6][2] == pytest.approx(1.0)


def test_a_vector_has_neighbours_too(tmp_path: Path) -> None:
    sae = random_sae()
    vector = sae.W_dec.detach().numpy()[4] * -3
    np.save(tmp_path / "v.npy", vector[None])
    rows = rows_of(GeometricSearch(read_vector(tmp_path / "v.npy"), n=40).run(Subject(sae)))
    assert len(rows) == 40
    assert rows[-1][1] == 4
    assert rows[-1][2] == pytest.approx(-1.0)


def test_wrong_vectors_and_features_are_one_line(tmp_path: Path) -> None:
    sae = random_sae()
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npy").touch()
    for name in ("object.npy", "text.npy", "empty.npy", "missing.npy"):
        with pytest.raises(UserError, match=f"near=.*{name}: "):
            read_vector(tmp_path / name)
    for near, match in (
        (40, "features 0 to 39"),
        (-1, "features 0 to 39"),
        (True, "a feature's number or a vector"),
        (np.ones(31), r"shape \(31,\)"),
        (np.zeros(32), "no direction"),
        (np.full(32, math.nan), "no direction"),
    ):
        with pytest.raises(UserError, match=match):
            GeometricSearch(near).run(Subject(sae))
    with torch.no_grad():
        sae.W_dec[5] = 0
    with pytest.raises(UserError, match="writes nothing"):
        GeometricSearch(5).run(Subject(sae))
    with pytest.raises(UserError, match="writes 16 numbers"):
        GeometricSearch(1, {"b": random_sae(16, 16)}).run(Subject(sae))


def test_explanations_are_found_by_their_words() -> None:
    said = {
        3: (Explanation("bridges and rivers", "a model"),),
        5: (Explanation("the word bridge", "a model"), Explanation("rivers, a Bridge, a ford", "another")),
        7: (Explanation("the sun", "a model"),),
        8: (Explanation("the moon <b>bridge</b>", "a model"),),
        9: (Explanation("the the the", "a model"),),
    }
    subject, known = Subject(random_sae()), Explanations("0", said)
    rows = rows_of(ExplainedSearch("a BRIDGE over a River", known).run(subject))
    n = len(said)
    # Features with each word: a in none but 5's second, bridge in 3 5 8, over in none, river in 3 5.
    df = {"a": 1, "bridge": 3, "over": 0, "river": 2}
    idf = {word: math.log(1 + n / (1 + k)) for word, k in df.items()}
    whole = sum(idf.values())
    assert [row[0] for row in rows] == [5, 3, 8]
    assert rows[0][1] == pytest.approx((idf["a"] + idf["bridge"] + idf["river"]) / whole)
    assert rows[0][2:] == ("a bridge river", "another")
    assert rows[1][1] == pytest.approx((idf["bridge"] + idf["river"]) / whole)
    assert rows[2][1] == pytest.approx(idf["bridge"] / whole)
    assert rows_of(ExplainedSearch("moose", known).run(subject)) == []
    assert rows_of(ExplainedSearch("a", Explanations("0", {})).run(subject)) == []
    with pytest.raises(UserError, match="no word"):
        ExplainedSearch("?!", known)

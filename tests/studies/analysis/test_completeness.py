"""Concepts and their own features: against one text at a time in dense numpy, and a planted answer."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sae_lightning.activations import MaskPolicy
from sae_lightning.core import TokenBatch, UserError
from sae_lightning.studies import Subject
from sae_lightning.studies.analysis.completeness import CompletenessStudy, wilson
from sae_lightning.studies.analysis.last_tokens import Place, last_tokens
from tests.store.planted import planted_store
from tests.studies.analysis.tiny_subject import tiny_subject

CONCEPTS = ["Zürich", "river", "green tree", "日本", "seven", "garden \U0001f600", "slow", "cloud 7", "tree"]
TEMPLATES = ["{concept}", "about {concept} and on", "\U0001f600{concept}."]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return tiny_subject(tmp_path)


@pytest.fixture
def concepts(tmp_path: Path) -> str:
    path = tmp_path / "concepts.txt"
    path.write_text("\n\n".join([*CONCEPTS, "  river  "]) + "\n", encoding="utf-8")
    return str(path)


def study(concepts: str | None, **settings) -> CompletenessStudy:
    return CompletenessStudy(concepts, **{"templates": TEMPLATES, "show_progress": False, **settings})


def read_by_hand(subject: Subject, text: str) -> tuple[torch.Tensor, bool]:
    """Return what the SAE reads on the last byte of ``text``, read alone behind the separator, and if it is kept."""
    lm, harvester = subject.lm, subject.harvester
    assert lm is not None
    assert harvester is not None
    assert harvester.mask is not None
    tokens = torch.tensor([[256, *text.encode()]])
    index = torch.arange(-1, tokens.shape[1] - 1)[None]
    one = torch.zeros(1, dtype=torch.int64)
    batch = TokenBatch(tokens, torch.ones_like(tokens, dtype=torch.bool), index, one, one)
    x = lm.activations(tokens, harvester.sites.read)[harvester.sites.read[0]]
    return x[0, -1], bool(harvester.mask.keep(batch, x)[0, -1])


def by_hand(subject: Subject, text: str) -> NDArray:
    """Return the features [F] there."""
    x, kept = read_by_hand(subject, text)
    subject.sae.eval()
    with torch.no_grad():
        return kept * subject.sae.encode(x[None]).dense()[0].double().numpy()


def reads(subject: Subject) -> NDArray:
    """Return what the SAE reads, [concepts, templates, d]."""
    return np.array([[read_by_hand(subject, t[: t.index("{")] + c)[0].numpy() for t in TEMPLATES] for c in CONCEPTS])


def all_by_hand(subject: Subject) -> NDArray:
    """Return [concepts, templates, F]."""
    return np.array(
        [[by_hand(subject, t[: t.index("{")] + c) for t in TEMPLATES] for c in CONCEPTS],
    )


def test_the_tables_are_what_reading_one_text_after_the_other_gives(
    subject: Subject, concepts: str, tmp_path: Path
) -> None:
    planted = planted_store(tmp_path, d_sae=subject.sae.d_sae, density=0.1)
    values = all_by_hand(subject)
    mean, fires = values.mean(1), (values != 0).sum(1)
    count = (fires > 0).sum(0)
    shared, named = 0.5, 0.1
    result = study(concepts, shared=shared, named=named, examples=7, top=3).run(replace(subject, store=planted.store))

    starts = np.concatenate([[0], np.cumsum([len(text.encode()) for text in planted.texts])])
    kept_tokens = planted.store.n_kept

    def share_named(feature: int, concept: str) -> tuple[float | None, int]:
        column = planted.dense[:, feature]
        order = np.lexsort((np.arange(len(column)), -column))[: 16 * 7]
        hits, texts = 0, []
        for token in order[column[order] > 0]:
            text = int(np.searchsorted(starts, token, side="right")) - 1
            if text in texts or len(texts) == 7:
                continue
            texts.append(text)
            at = token - starts[text]
            # The last text is indexed as far as the last whole window goes.
            data = planted.texts[text].encode()[: planted.store.n_tokens - starts[text]]
            first, last = max(0, at - 10), min(len(data), at + 11)
            # A character belongs to its first byte.
            while first < last and data[first] & 0xC0 == 0x80:
                first += 1
            while last < len(data) and data[last] & 0xC0 == 0x80:
                last += 1
            whole, name = data.decode(errors="ignore").casefold(), concept.casefold()
            begin = len(data[:first].decode().casefold())
            end = begin + len(data[first:last].decode().casefold())
            hits += any(
                whole.startswith(name, i)
                and not whole[max(0, i - 1) : i].isalnum()
                and not whole[i + len(name) : i + len(name) + 1].isalnum()
                for i in range(begin, end - len(name) + 1)
            )
        return (hits / len(texts), len(texts)) if texts else (None, 0)

    covered, prompts = [], []
    for i, concept in enumerate(CONCEPTS):
        active = np.flatnonzero(fires[i])
        order = active[np.lexsort((active, -mean[i, active]))]
        own = [
            f for f in order if fires[i, f] == len(TEMPLATES) and count[f] - 1 <= shared * (len(CONCEPTS) - 1) + 1e-9
        ]
        prompts.append(bool(own))
        its = next(
            (f for f in own if (share_named(f, concept)[0] or 0) >= named and share_named(f, concept)[1] >= 3), None
        )
        covered.append(its)
        shown = list(dict.fromkeys([*order[:3], *([] if its is None else [its])]))
        rows = [row for row in result.tables["concepts"].rows if row[0] == concept]
        assert [row[2] for row in rows] == shown
        for row, f in zip(rows, shown, strict=True):
            assert row[3] == pytest.approx(mean[i, f], rel=1e-4)
            assert row[4:6] == (fires[i, f], count[f] - 1)
            assert row[6] == pytest.approx((planted.dense[:, f] != 0).sum() / kept_tokens)
            assert row[7] == share_named(f, concept)[0]
            assert row[8] == (f == its)
        (row,) = [row for row in result.tables["covered"].rows if row[0] == concept]
        assert row[2:4] == (its is not None, its)
    k = sum(f is not None for f in covered)
    assert 0 < k < sum(prompts)
    n = len(CONCEPTS)
    assert result.values == {"covered": pytest.approx(k / n), "covered_prompts": pytest.approx(sum(prompts) / n)}
    estimate = result.estimates["covered"]
    assert (estimate.low, estimate.high) == pytest.approx(wilson(k, n))
    assert estimate.tokens == n
    assert result.notes == ("1 lines repeat a concept and count once",)


def test_a_direction_of_one_concept_alone_is_its_feature(subject: Subject, concepts: str) -> None:
    """Features that every token has are no concept's own; one that reads what only 日本 has is."""
    sae = subject.sae
    # What the SAE reads at each concept's end: 本 stands off from the others by direction.
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.zero_()
        sae.b_enc[:5] = 1.0
    none = study(concepts, shared=0.0).run(subject)
    assert none.values["covered_prompts"] == 0.0
    assert none.values["covered"] is None
    assert "no store" in none.notes[-1]
    assert {row[2] for row in none.tables["concepts"].rows} == {0, 1, 2, 3, 4}
    assert all(row[5] == len(CONCEPTS) - 1 for row in none.tables["concepts"].rows)
    rows = torch.from_numpy(reads(subject))  # [concepts, templates, d]
    own, others = rows[CONCEPTS.index("日本")], torch.cat([rows[: CONCEPTS.index("日本")], rows[4:]]).flatten(0, 1)
    with torch.no_grad():
        # A hyperplane between the two: least squares of 1 and -1, the dimensions being more than the rows.
        x = torch.cat([own, others]).double() - sae.b_dec.double()
        y = torch.cat([torch.ones(len(own)), -torch.ones(len(others))]).double()
        w = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1).double()], 1), y[:, None]).solution[:, 0]
        sae.W_enc[:, 9], sae.b_enc[9] = 100 * w[:-1].float(), 100 * w[-1].float()
    found = study(concepts, shared=0.0).run(subject)
    assert found.values["covered_prompts"] == pytest.approx(1 / len(CONCEPTS))
    (row,) = [row for row in found.tables["covered"].rows if row[2]]
    assert (row[0], row[3], row[5]) == ("日本", 9, 0)


@pytest.mark.parametrize(
    ("text", "part", "last"),
    [
        ("a river.", "river", "r"),
        ("in Zürich!", "Zürich", "h"),
        ("日本 is", "日本", "本"),
        ("\U0001f600\U0001f600", "\U0001f600", "\U0001f600"),
        ("x", "x", "x"),
    ],
)
def test_the_token_is_the_last_of_the_part(subject: Subject, text: str, part: str, last: str) -> None:
    begin = text.rindex(part)
    found = last_tokens(subject, [Place(text, begin, begin + len(part))], show_progress=False)
    assert found.token_ids.tolist() == [last.encode()[-1]]  # the last byte of the last character
    assert found.kept.tolist() == [True]
    expected = by_hand(subject, text[: begin + len(part)])
    np.testing.assert_array_equal(found.features, np.flatnonzero(expected))
    np.testing.assert_allclose(found.values, expected[found.features], rtol=1e-4)


def test_masked_tokens_have_no_features_and_are_noted(tmp_path: Path, concepts: str) -> None:
    # The mask leaves out what ends "river".
    mask = MaskPolicy(special_ids=(256, ord("r")), norm_multiple=None)
    result = study(concepts).run(tiny_subject(tmp_path, mask=mask))
    assert not [row for row in result.tables["concepts"].rows if row[0] == "river"]
    assert result.notes[1] == f"the mask leaves out 3 of {3 * len(CONCEPTS)} last tokens: they have no features"


def test_mistakes_are_one_line(subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "c.txt"

    def refused(said: str, content: str | bytes | None = None, **settings) -> None:
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match=re.escape(said)) as raised:
            study(str(path), **settings).run(subject)
        assert "\n" not in str(raised.value)

    refused("c.txt: there is no such file")
    refused("c.txt: is empty", "\n  \n")
    refused("c.txt: has one concept", "one\none\n")
    refused("c.txt: is not UTF-8 (byte 1)", b"a\xff\n")
    refused("cannot be read", concepts_is_folder(path, tmp_path))
    path = tmp_path / "d.txt"
    refused("fewest=3: is more than examples=2", "a\nb\n", examples=2)
    refused("'They live here' must have {concept} once", "a\nb\n", templates=["They live here"])
    refused("ends at token 80, but the language model reads 63", "a\n" + "b" * 80, templates=["{concept}"])
    assert "needs concepts" in (study(None).reason(subject) or "")
    assert "needs a language model" in (study(str(path)).reason(replace(subject, lm=None)) or "")


def concepts_is_folder(path: Path, tmp_path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_a_concept_without_tokens_is_named(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_lightning.store.texts import Cutter

    path = tmp_path / "c.txt"
    path.write_text("one\n\u200b\n", encoding="utf-8")
    real = Cutter.ids_and_ends
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    # A tokenizer that drops characters without width.
    monkeypatch.setattr(Cutter, "ids_and_ends", lambda self, text: nothing if text == "\u200b" else real(self, text))
    with pytest.raises(UserError, match=r"concept '\\u200b': has no tokens"):
        study(str(path)).run(subject)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 20), (60, 100), (1, 2)])
def test_wilson_s_limits_are_where_the_score_test_stands_at_five_percent(k: int, n: int) -> None:
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    for limit, end in ((low, 0), (high, n)):
        if k == end:
            assert limit == end / n
        else:
            assert abs(k / n - limit) / np.sqrt(limit * (1 - limit) / n) == pytest.approx(1.959964, rel=1e-5)

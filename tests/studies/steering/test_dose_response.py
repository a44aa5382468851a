"""A dose-response on a model whose answer is known, and its figures against computing them one text at a time."""

import json
import math

import numpy as np
import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.metrics import bootstrap_weights
from sae_lightning.store import Reader
from sae_lightning.studies.steering.dose_response import AS_IS, CHANGES, UNSTEERED, DoseResponse, Doses
from sae_lightning.studies.steering.generate import Continuation
from sae_lightning.studies.steering.samples import Sample, read_again
from sae_lightning.studies.steering.sampling import Sampling
from sae_lightning.studies.steering.scores import FIGURES, Sums, drawn, estimates
from tests.studies.steering.kinds import KINDS, made
from tests.studies.steering.planted_push import FEATURE, NORM, TOKEN, planted_reader

PROMPTS = ("ab c", "What")
SHARP = Sampling(max_tokens=16, temperature=0.3)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return planted_reader()


def doses(reader: Reader, strengths: tuple[float, ...], **settings) -> Doses:
    given = {"prompts": PROMPTS, "samples": 8, "concept": [TOKEN], "sampling": SHARP, "show_progress": False}
    return DoseResponse(strengths, **{**given, **settings}).run(reader, {FEATURE: NORM})


@pytest.fixture(scope="module")
def planted(reader: Reader) -> Doses:
    return doses(reader, (10, -4, 0, 0.5, 1, 2))


def value(found: Doses, figure: str, variant: str) -> float:
    estimate = found.result.estimates[f"steered_{figure}/{FEATURE}/{variant}"]
    assert estimate.value is not None
    return estimate.value


def test_the_planted_token_comes_the_oftener_the_harder_its_feature_is_pushed(planted: Doses) -> None:
    rates = [value(planted, "word_rate", f"{s}x") for s in ("-4", "0", "0.5", "1")]
    tokens = [
        float(np.mean([(one.token_ids == ord(TOKEN)).mean() for one in variant.samples]))
        for variant in planted.groups[0].variants
        if variant.strength is not None
    ]
    assert [v.strength for v in planted.groups[0].variants] == [None, -4, 0, 0.5, 1, 2, 10]
    assert tokens == sorted(tokens)
    assert tokens[0] == 0.0
    assert tokens[-1] > 0.9
    assert rates == sorted(rates)
    assert value(planted, "words", "10x") == 1.0
    assert value(planted, "words", "-4x") == 0.0
    assert value(planted, "repetition", "10x") > 0.5 > value(planted, "repetition", AS_IS)
    assert value(planted, "nats", "10x") > value(planted, "nats", AS_IS)


def test_what_is_not_changed_is_exactly_the_unsteered_text(reader: Reader) -> None:
    found = doses(reader, (1, 0), mode="scale")
    as_is, removed, scaled = found.groups[0].variants
    assert (as_is.name, removed.name, scaled.name) == (AS_IS, "0x", "1x")
    for a, b in zip(as_is.samples, scaled.samples, strict=True):
        assert a.text == b.text
        for field in ("token_ids", "values", "kept", "nats", "logprobs"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    rows = [
        dict(zip(found.result.tables["changes"].columns, r, strict=True)) for r in found.result.tables["changes"].rows
    ]
    same = [row for row in rows if row["variant"] == "1x"]
    assert len(same) == len(CHANGES)
    assert all(row["change"] == 0 and row["low"] == row["high"] for row in same)
    assert [row["low"] for row in same if row["figure"] == "nats"] == [0]
    assert any(row["change"] != 0 for row in rows if row["variant"] == "0x")


def test_figures_are_those_of_every_text_read_by_itself(reader: Reader, planted: Doses) -> None:
    lm = reader.lm
    for variant in planted.groups[0].variants:
        nats, tokens, shown, kept, hits = 0.0, 0, 0.0, 0, 0
        for sample in variant.samples:
            prompt = reader.cut(PROMPTS[sample.prompt])[1]
            ids = [lm.separator_id, *prompt.tolist(), *sample.token_ids.tolist()]
            window = torch.tensor([ids])
            log_p = lm.logits(window)[0].double().log_softmax(-1)
            first = 1 + len(prompt)
            own = [-float(log_p[i - 1, ids[i]]) for i in range(first, len(ids))]
            np.testing.assert_allclose(sample.nats, own, atol=2e-5)
            x = lm.activations(window, reader.sites.read)[reader.sites.read[0]][0, first:]
            f = reader.encode(x).dense()[:, FEATURE].numpy()
            there = np.array([i not in lm.special_ids for i in ids[first:]])
            np.testing.assert_array_equal(sample.kept, there)
            np.testing.assert_allclose(sample.values[:, 0], f * there, atol=1e-4)
            text = lm.tokenizer.decode(sample.token_ids.tolist(), clean_up_tokenization_spaces=False)
            assert sample.text == text
            assert len(sample.pieces) == len(sample.token_ids)
            nats, tokens = nats + sum(own), tokens + len(own)
            shown, kept = shown + float((f * there).sum()) / NORM, kept + int(there.sum())
            hits += TOKEN in text
        assert value(planted, "perplexity", variant.name) == pytest.approx(math.exp(nats / tokens), rel=1e-4)
        assert value(planted, "activation", variant.name) == pytest.approx(shown / kept, rel=1e-3, abs=1e-5)
        share = planted.result.estimates[f"steered_words/{FEATURE}/{variant.name}"]
        assert share.tokens == len(variant.samples) == 16
        assert hits / 16 >= value(planted, "words", variant.name)  # as a word, no letter beside it


def test_the_same_seed_gives_the_same_texts_whatever_is_asked_beside(reader: Reader, planted: Doses) -> None:
    fewer = doses(reader, (2,), samples=3)
    again = {(s.prompt, s.number): s for s in planted.groups[0].variants[-2].samples}
    assert planted.groups[0].variants[-2].name == "2x"
    for sample in fewer.groups[0].variants[-1].samples:
        np.testing.assert_array_equal(sample.token_ids, again[sample.prompt, sample.number].token_ids)
    other = doses(reader, (2,), samples=3, sampling=Sampling(max_tokens=16, temperature=0.3, seed=1))
    texts = [[s.text for s in found.groups[0].variants[-1].samples] for found in (fewer, other)]
    assert texts[0] != texts[1]


def test_without_the_error_the_reconstruction_is_a_variant_of_its_own(reader: Reader) -> None:
    found = doses(reader, (1,), keep_error=False, samples=2)
    names = [variant.name for variant in found.groups[0].variants]
    assert names == [UNSTEERED, AS_IS, "1x"]
    plain, rebuilt, _ = found.groups[0].variants
    assert [s.text for s in plain.samples] != [s.text for s in rebuilt.samples]
    assert f"steered_nats/{FEATURE}/{UNSTEERED}" in found.result.estimates


def test_several_features_are_pushed_one_at_a_time_and_share_what_is_not_pushed(reader: Reader) -> None:
    settings = {"prompts": PROMPTS[:1], "samples": 2, "sampling": SHARP, "show_progress": False}
    study = DoseResponse((5,), concept={FEATURE: [TOKEN]}, **settings)
    found = study.run(reader, {1: 2.0, FEATURE: NORM})
    assert [group.features for group in found.groups] == [(1,), (FEATURE,)]
    texts = [[s.text for s in group.variants[0].samples] for group in found.groups]
    assert texts[0] == texts[1]
    assert not np.array_equal(
        found.groups[0].variants[0].samples[0].values, found.groups[1].variants[0].samples[0].values
    )
    alone = DoseResponse((5,), concept={FEATURE: [TOKEN]}, **settings).run(reader, {FEATURE: NORM})
    assert alone.groups[0].to_json() == found.groups[1].to_json()
    # Words were given for one feature alone.
    assert f"steered_words/{FEATURE}/5x" in found.result.estimates
    assert "steered_words/1/5x" not in found.result.estimates


def test_everything_is_json(planted: Doses) -> None:
    text = json.dumps([planted.result.to_json(), [group.to_json() for group in planted.groups]], allow_nan=False)
    assert json.loads(text)[1][0]["features"] == [FEATURE]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sae_is_read_again_as_any_text_is(kind: str) -> None:
    reader = made(kind).reader
    feature = int(reader.rows(np.arange(1, 39))[1].dense().sum(0).argmax())
    study = DoseResponse((1, 4), "scale", PROMPTS[:1], samples=2, sampling=Sampling(max_tokens=8), show_progress=False)
    (group,) = study.run(reader, {feature: 1.0}).groups
    as_is, same, pushed = group.variants
    assert [s.text for s in as_is.samples] == [s.text for s in same.samples]
    for sample in (*as_is.samples, *pushed.samples):
        ids = np.concatenate([reader.cut(PROMPTS[0])[1], sample.token_ids])
        kept, active = reader.rows(ids)
        dense = np.zeros(len(ids), np.float32)
        dense[kept] = active.dense()[:, feature].numpy()
        n = len(sample.token_ids)
        np.testing.assert_array_equal(sample.kept, kept[len(ids) - n :])
        np.testing.assert_allclose(sample.values[:, 0], dense[len(ids) - n :], atol=1e-4)
    assert any(sample.values.any() for sample in (*as_is.samples, *pushed.samples))


def test_few_samples_have_no_intervals_and_the_notes_say_so(reader: Reader) -> None:
    found = doses(reader, (1,), samples=2)
    assert found.result.estimates[f"steered_nats/{FEATURE}/1x"].low is None
    assert any("intervals need" in note for note in found.result.notes)
    greedy = doses(reader, (1,), sampling=Sampling(max_tokens=4, temperature=0))
    assert len(greedy.groups[0].variants[0].samples) == len(PROMPTS)
    assert any("temperature 0" in note for note in greedy.result.notes)


@pytest.mark.parametrize("strengths", [(math.nan,), (math.inf, 1), (True,), ()])
def test_strengths_that_are_none(strengths: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="dose"):
        DoseResponse(strengths)


def test_what_cannot_be_pushed(reader: Reader) -> None:
    study = DoseResponse((1,), show_progress=False)
    with pytest.raises(UserError, match="feature 2: never fires"):
        study.run(reader, {2: 0.0})
    with pytest.raises(UserError, match="feature 8: this SAE has features 0 to 7"):
        study.run(reader, {8: 1.0})
    with pytest.raises(UserError, match="none is given"):
        study.run(reader, {})
    with pytest.raises(UserError, match="beyond the prompt"):
        DoseResponse((1,), prompts=("abcd", "ab"), positions=[3], show_progress=False).run(reader, {FEATURE: 1.0})
    with pytest.raises(UserError, match="no tokens"):
        DoseResponse((1,), prompts=("",), show_progress=False).run(reader, {FEATURE: 1.0})


def test_texts_without_tokens_have_no_figures_and_break_nothing(reader: Reader) -> None:
    nothing = Continuation(np.zeros(0, np.int64), "", np.zeros(0), True)
    some = Continuation(np.array([97, 98]), "ab", np.zeros(2), False)
    prompt = np.array([99])
    assert read_again(reader, prompt, [], [FEATURE]) == []
    empty, two = read_again(reader, prompt, [nothing, some], [FEATURE, 0])
    assert empty.text == ""
    assert empty.values.shape == (0, 2)
    assert two.text == "ab"
    (alone,) = read_again(reader, prompt, [some], [FEATURE, 0])
    np.testing.assert_allclose(alone.nats, two.nats, atol=1e-5)
    (only,) = read_again(reader, prompt, [nothing], [FEATURE])
    found, _ = estimates(_sums([only]), bootstrap_weights(1, 100, 0).numpy(), words=True)
    assert {name for name, one in found.items() if one.value is None} == set(FIGURES) - {"steered_words"}


def test_a_character_of_several_tokens_belongs_to_the_first(reader: Reader) -> None:
    ids = np.frombuffer("é!日".encode() + b"\xff", np.uint8).astype(np.int64)
    (sample,) = read_again(reader, np.array([97]), [Continuation(ids, "", np.zeros(len(ids)), False)], [FEATURE])
    assert sample.pieces == ("é", "", "!", "日", "", "", "\ufffd")


def _sums(samples: list[Sample]) -> Sums:
    from sae_lightning.studies.steering.scores import sums

    return sums(samples, 0, 1.0, [TOKEN], {0: "c"})


def random_sums(rng: np.random.Generator, n: int) -> Sums:
    """Texts of 20 to 60 tokens, each with a level of its own."""
    tokens = rng.integers(20, 60, n).astype(float)
    level = rng.normal(0, 0.3, n)
    return Sums(
        tokens=tokens,
        kept=tokens - 1,
        shown=(tokens - 1) * (1 + level),
        fires=rng.binomial(20, 0.4, n) / 20 * (tokens - 1),
        hits=rng.binomial(1, 0.3, n).astype(float),
        words=tokens,
        nats=tokens * (3 + level),
        repeated=np.clip(0.3 + level, 0, 1),
        distinct=np.clip(0.6 + level, 0, 1),
    )


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth = {k: float(v[0]) for k, v in drawn(random_sums(rng, 200_000), np.ones((1, 200_000)), True).items()}
    n, trials = 16, 150
    weights = bootstrap_weights(n, 400, 0).numpy()
    inside = dict.fromkeys(FIGURES, 0)
    for _ in range(trials):
        for name, one in estimates(random_sums(rng, n), weights, True)[0].items():
            assert one.value is not None
            assert one.low is not None
            assert one.high is not None
            assert one.low <= one.value <= one.high
            inside[name] += one.low <= truth[name] <= one.high
    for name, count in inside.items():
        assert count / trials > 0.88, name


def test_no_sample_with_a_word_is_not_surely_none() -> None:
    each = random_sums(np.random.default_rng(1), 12)
    each.hits[:] = 0
    found = estimates(each, bootstrap_weights(12, 100, 0).numpy(), True)[0]
    rate = found["steered_word_rate"]
    assert (rate.value, rate.low, rate.high) == (0, None, None)
    assert found["steered_words"].value == 0
    assert found["steered_words"].high == pytest.approx(1 - 0.025 ** (1 / 12))

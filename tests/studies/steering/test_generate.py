"""Texts: what is drawn, from what, with which random numbers, and when it ends."""

import numpy as np
import pytest
import torch

from sae_lightning.core import UserError, torch_generator
from sae_lightning.lm.decoding import Decoder
from sae_lightning.studies.steering.edits import clamp
from sae_lightning.studies.steering.generate import generate
from sae_lightning.studies.steering.sampling import Sampling, draw, next_tokens, probabilities
from sae_lightning.studies.steering.steering import Steering
from tests.studies.steering.kinds import made

PROMPT = np.frombuffer(b"ab c", dtype=np.uint8).astype(np.int64)


def naive(logits: list[float], temperature: float, top_p: float) -> list[float]:
    """Probabilities of one row, cut at top_p, in float arithmetic."""
    p = np.exp(np.array(logits) / temperature - max(logits) / temperature)
    p = p / p.sum()
    out, held = np.zeros(len(p)), 0.0
    for i in sorted(range(len(p)), key=lambda i: -p[i]):
        if held >= top_p:
            break
        out[i], held = p[i], held + p[i]
    return out.tolist()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 1.0])
def test_top_p_and_temperature_are_those_of_a_naive_loop(temperature: float, top_p: float) -> None:
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) * 3
    found = probabilities(logits, temperature, top_p)
    for row, one in zip(logits.tolist(), found.tolist(), strict=True):
        np.testing.assert_allclose(one, naive(row, temperature, top_p), atol=1e-6)
        assert sum(one) >= min(top_p, 0.999)


def test_of_equally_likely_tokens_the_first_are_kept() -> None:
    assert probabilities(torch.zeros(1, 4), 1.0, 0.5).tolist() == [[0.25, 0.25, 0.0, 0.0]]


def test_a_temperature_near_0_is_the_likeliest_token() -> None:
    logits = torch.tensor([[1.0, -3.0, 7.0, -torch.inf]])
    assert probabilities(logits, 1e-308).tolist() == [[0.0, 0.0, 1.0, 0.0]]


def test_draws_follow_the_probabilities_and_never_a_token_without_any() -> None:
    p = probabilities(torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0]]), 1.0, 0.9)
    n = 40_000
    tokens = draw(p.expand(n, -1), torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    wanted = (p / p.sum())[0]
    found = torch.bincount(tokens, minlength=5).double() / n
    # Five standard errors.
    assert ((found - wanted).abs() <= 5 * (wanted * (1 - wanted) / n).sqrt()).all()
    edges = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert draw(torch.tensor([[0.0, 0.3, 0.7, 0.0]]).double().expand(2, -1), edges).tolist() == [1, 2]


def test_temperature_0_takes_the_likeliest() -> None:
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(next_tokens(logits, Sampling(temperature=0), torch.rand(5)), logits.argmax(-1))


def test_a_sample_is_the_same_whatever_their_number_is() -> None:
    reader = made("sae").reader
    steering = Steering(reader, {3: clamp(4.0)})
    for sampling in (Sampling(max_tokens=6, seed=2), Sampling(max_tokens=6, seed=2, cached=False)):
        many = generate(reader, PROMPT, steering, sampling, n=11)
        for n in (1, 8, 9):
            some = generate(reader, PROMPT, steering, sampling, n=n)
            for one, other in zip(some, many, strict=False):
                assert one.text == other.text
                assert np.array_equal(one.logprobs, other.logprobs)
    assert len({one.text for one in many}) > 5
    other = generate(reader, PROMPT, steering, Sampling(max_tokens=6, seed=3), n=11)
    assert [one.text for one in other] != [one.text for one in many]


def test_samples_are_those_of_a_loop_over_whole_runs() -> None:
    reader = made("sae").reader
    sampling = Sampling(max_tokens=8, temperature=0.7, top_p=0.8, seed=5)
    for i, sample in enumerate(generate(reader, PROMPT, None, sampling, n=3)):
        draws = torch_generator(5, "steering", i)
        ids = [reader.start, *PROMPT.tolist()]
        known = list(reader.lm.tokenizer.get_vocab().values())
        for token, logprob in zip(sample.token_ids, sample.logprobs, strict=True):
            logits = reader.lm.logits(torch.tensor([ids]))[0, -1].double()
            p = np.array(naive(logits[known].tolist(), 0.7, 0.8))
            u = float(torch.rand((), generator=draws, dtype=torch.float64)) * p[np.argsort(known)].sum()
            running = np.cumsum(p[np.argsort(known)])
            assert sorted(known)[int(np.searchsorted(running, u, side="right"))] == token
            assert logprob == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-4)
            ids.append(int(token))


def test_greedy_texts_are_the_same_with_a_cache_and_without_and_one_for_all_samples() -> None:
    reader = made("sae").reader
    steering = Steering(reader, {3: clamp(4.0)})
    ours = generate(reader, PROMPT, steering, Sampling(max_tokens=20, temperature=0), n=3)
    theirs = generate(reader, PROMPT, steering, Sampling(max_tokens=20, temperature=0, cached=False))
    assert [one.text for one in ours] == [theirs[0].text] * 3
    np.testing.assert_allclose(ours[0].logprobs, theirs[0].logprobs, atol=1e-4)


def test_a_text_ends_where_the_model_ends_it_and_others_go_on(monkeypatch) -> None:
    reader = made("sae").reader
    end = reader.lm.separator_id
    sampling = Sampling(max_tokens=12, seed=1)
    plain = generate(reader, PROMPT, None, sampling, n=8)
    feed = Decoder.feed

    def ending(self, tokens, edits=None, *, sites=()):
        ran = feed(self, tokens, edits, sites=sites)
        if len(self) == 1 + len(PROMPT) + 4:  # the fifth token of sample 2
            ran.logits[2, :, end] = 1e4
        return ran

    monkeypatch.setattr(Decoder, "feed", ending)
    found = generate(reader, PROMPT, None, sampling, n=8)
    for i, (one, other) in enumerate(zip(found, plain, strict=True)):
        assert one.ended is (i == 2)
        length = 4 if i == 2 else 12
        assert np.array_equal(one.token_ids, other.token_ids[:length])
        assert len(one.logprobs) == length
        assert one.text == reader.lm.tokenizer.decode(one.token_ids)


def test_what_cannot_be_generated_is_one_line() -> None:
    reader = made("sae", masked=False).reader
    none = np.zeros(0, np.int64)
    for ids, steering, sampling, n, said in (
        (none, None, Sampling(), 1, "no tokens"),
        (PROMPT, None, Sampling(max_tokens=60), 1, "reads at most 64"),
        (PROMPT, None, Sampling(max_tokens=5), 0, "n=0"),
        (PROMPT, Steering(reader, {}, positions=[4]), Sampling(max_tokens=5), 1, "beyond the prompt"),
        (PROMPT, Steering(reader, {i: clamp(3e38) for i in range(20)}), Sampling(max_tokens=5), 1, "no longer numbers"),
    ):
        with pytest.raises(UserError, match=said):
            generate(reader, ids, steering, sampling, n)
    for settings in (
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"max_tokens": 0},
    ):
        with pytest.raises(UserError):
            Sampling(**settings)


def test_the_tokenizers_own_end_ends_a_text_as_the_separator_does(monkeypatch) -> None:
    reader = made("sae").reader
    (plain,) = generate(reader, PROMPT, None, Sampling(max_tokens=12, seed=1))
    end = int(plain.token_ids[5])
    assert end != reader.lm.separator_id
    monkeypatch.setattr(type(reader.lm.tokenizer), "eos_token_id", end, raising=False)
    (found,) = generate(reader, PROMPT, None, Sampling(max_tokens=12, seed=1))
    assert found.ended
    assert np.array_equal(found.token_ids, plain.token_ids[: plain.token_ids.tolist().index(end)])

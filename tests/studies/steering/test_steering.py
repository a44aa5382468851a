"""What is written, where, and that nothing else is, against hooks and arithmetic by hand, for every kind of SAE."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_lightning.core import Sites, UserError
from sae_lightning.lm.decoding import Decoder
from sae_lightning.lm.standing import stand
from sae_lightning.studies.steering.edits import FeatureEdit, add, clamp, scale
from sae_lightning.studies.steering.generate import Continuation, generate
from sae_lightning.studies.steering.sampling import Sampling
from sae_lightning.studies.steering.steering import Steering
from tests.studies.steering.kinds import KINDS, READS_ABOVE, by_hand, made

PROMPT = np.frombuffer(b"The river and the sea", dtype=np.uint8).astype(np.int64)
EDITS: dict[int, FeatureEdit] = {3: clamp(2.5), 7: add(-1.5), 11: scale(-3), 12: scale(0)}
SAMPLING = Sampling(max_tokens=10, seed=3)


def changed(f: Tensor) -> Tensor:
    out = f.clone()
    out[:, 3] = 2.5
    out[:, 7] += -1.5
    out[:, 11] *= -3
    out[:, 12] = 0
    return out


def where(positions: object, n: int, prompt: int) -> Tensor:
    """Which of n tokens, the start first, are to be steered."""
    number = torch.arange(n) - 1
    if positions == "all":
        return number >= 0
    if positions == "prompt":
        return (number >= 0) & (number < prompt)
    if positions == "generated":
        return number >= prompt
    assert isinstance(positions, list)
    return torch.tensor([i in positions for i in number.tolist()])


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("positions", ["all", "prompt", "generated", [0, 5, 20]])
@pytest.mark.parametrize("kind", KINDS)
def test_generated_text_is_steered_where_it_should_be_and_nowhere_else(kind, positions, cached) -> None:
    one = made(kind)
    steering = Steering(one.reader, EDITS, positions=positions)
    sampling = replace(SAMPLING, cached=cached)
    at_generated: list[Tensor] = []
    for sample in generate(one.reader, PROMPT, steering, sampling, n=6):
        text = torch.tensor([[one.reader.start, *PROMPT, *sample.token_ids]])
        chosen = where(positions, text.shape[1], len(PROMPT))[None]
        logits, _, steered = by_hand(one, text, changed, chosen)
        begin = len(PROMPT)
        wanted = logits[0, begin:-1].double().log_softmax(-1).gather(-1, text[0, begin + 1 :, None])[:, 0]
        assert len(sample.token_ids) == 10 or sample.ended
        np.testing.assert_allclose(sample.logprobs, wanted.numpy(), rtol=1e-4, atol=1e-4)
        at_generated.append(steered[0, begin + 1 :].double())
    share = float(torch.cat(at_generated).mean())
    assert 0.3 < share < 1 if positions in ("all", "generated") else share == 0, "all but those masked, or none"


@pytest.mark.parametrize("keep_error", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_the_change_at_steered_tokens_and_the_clean_bits_at_others(kind, keep_error) -> None:
    one = made(kind)
    lm, sites = one.reader.lm, one.reader.sites
    tokens = torch.randint(0, 256, (3, 30), generator=torch.Generator().manual_seed(0))
    chosen = torch.zeros(3, 30, dtype=torch.bool)
    chosen[:, [0, 2, 3, 9, 20, 29]] = True
    clean = lm.run(tokens, sites=sites.write).seen
    logits, seen, steered = by_hand(one, tokens, changed, chosen, keep_error=keep_error)
    assert 0 < steered.sum() < chosen.sum()
    with stand(lm, Steering(one.reader, EDITS, keep_error=keep_error, positions=[0, 2, 3, 9, 20, 29])):
        ran = lm.run(tokens, sites=sites.write)
    torch.testing.assert_close(ran.logits, logits, rtol=1e-4, atol=1e-4)
    for site in sites.write:
        torch.testing.assert_close(ran.seen[site], seen[site], rtol=1e-4, atol=1e-4)
    # Below the first written site nothing has changed yet.
    first = sites.write[0]
    assert torch.equal(ran.seen[first][~steered], clean[first][~steered])
    assert ((ran.seen[first] != clean[first]).any(-1) == steered).all()


@cache
def unsteered(dtype: torch.dtype, sampling: Sampling) -> list[Continuation]:
    return generate(made("sae", dtype).reader, PROMPT, None, sampling, n=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_steering_that_changes_nothing_changes_no_bit_of_text_or_logits(kind, cached, dtype) -> None:
    one = made(kind, dtype, feature_off=5)
    sampling = Sampling(max_tokens=6, seed=1, cached=cached)
    plain = unsteered(dtype, sampling)  # by the same model, which every kind has
    tokens = torch.randint(0, 256, (3, 30), generator=torch.Generator().manual_seed(0))
    logits = one.reader.lm.logits(tokens)
    as_is: list[dict[int, FeatureEdit]] = [{}, {3: scale(1), 4: add(0.0)}, {5: clamp(0.0)}]
    for edits in as_is:
        steering = Steering(one.reader, edits)
        for ours, theirs in zip(generate(one.reader, PROMPT, steering, sampling, n=2), plain, strict=True):
            assert ours.text == theirs.text
            assert np.array_equal(ours.token_ids, theirs.token_ids)
            assert np.array_equal(ours.logprobs, theirs.logprobs)
        with stand(one.reader.lm, steering):
            assert torch.equal(one.reader.lm.logits(tokens), logits)


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_edit_the_reconstruction_can_be_spliced_in(kind) -> None:
    one = made(kind)
    for sample in generate(one.reader, PROMPT, Steering(one.reader, {}, keep_error=False), SAMPLING, n=1):
        text = torch.tensor([[one.reader.start, *PROMPT, *sample.token_ids]])
        chosen = where("all", text.shape[1], len(PROMPT))[None]
        logits, _, _ = by_hand(one, text, lambda f: f, chosen, keep_error=False)
        begin = len(PROMPT)
        wanted = logits[0, begin:-1].double().log_softmax(-1).gather(-1, text[0, begin + 1 :, None])[:, 0]
        np.testing.assert_allclose(sample.logprobs, wanted.numpy(), rtol=1e-4, atol=1e-4)


def test_what_reads_above_the_sites_it_writes_reads_a_run_of_its_own() -> None:
    for kind in KINDS:
        assert bool(Steering(made(kind).reader, EDITS).reads) is (kind in READS_ABOVE)


def test_bfloat16_is_rounded_once() -> None:
    one = made("sae", torch.bfloat16, masked=False)
    lm, (site,) = one.reader.lm, one.reader.sites.read
    tokens = torch.randint(0, 256, (3, 30), generator=torch.Generator().manual_seed(0))
    clean = lm.run(tokens, sites=(site,)).seen[site]
    with stand(lm, Steering(one.reader, {3: add(0.37)})):
        seen = lm.run(tokens, sites=(site,)).seen[site]
    wanted = (clean.float() + 0.37 * one.reader.sae.W_dec[3].detach()).bfloat16()
    off = (seen[:, 1:].float() - wanted[:, 1:].float()).abs() / wanted[:, 1:].float().abs().clamp(min=1e-3)
    assert (off < 2 * torch.finfo(torch.bfloat16).eps).all()
    assert (off == 0).double().mean() > 0.99


WRONG: list[tuple[Callable[..., Steering], str]] = [
    (lambda reader: Steering(reader, {24: clamp(1)}), "feature 24: this SAE has features 0 to 23"),
    (lambda reader: Steering(reader, {-1: clamp(1)}), "feature -1"),
    (lambda reader: Steering(reader, {3: clamp("10x")}), "give store"),
    (lambda reader: Steering(reader, {3: clamp(1)}, positions="somewhere"), "all, prompt, generated"),
    (lambda reader: Steering(reader, {3: clamp(1)}, positions=[-1]), "count from 0"),
    (lambda reader: Steering(reader, {3: clamp(1)}, positions=[]), "nothing is steered"),
]


@pytest.mark.parametrize(("make", "said"), WRONG)
def test_what_cannot_be_steered_is_one_line(make, said) -> None:
    with pytest.raises(UserError, match=said):
        make(made("sae").reader)


def test_sites_of_two_models_are_refused_in_one_line() -> None:
    reader = made("sae").reader
    sites = Sites(("base/blocks.1.hook_resid_post",), ("tuned/blocks.1.hook_resid_post",))
    with pytest.raises(UserError, match="two language models"):
        Steering(type(reader)(reader.lm, reader.sae, sites, None, 40, 4), {3: clamp(1)})


def test_numbers_beyond_the_prompt_are_no_generated_tokens() -> None:
    one = made("sae", masked=False)
    tokens = torch.randint(0, 256, (1, 10), generator=torch.Generator().manual_seed(0))
    found = []
    for positions in ([2], [2, 7]):
        with stand(one.reader.lm, Steering(one.reader, EDITS, positions=positions)):
            decoder = Decoder(one.reader.lm)
            found.append([decoder.feed(part).logits for part in tokens.split(5, dim=1)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)

"""Token by token: what a run of the whole text shows, with a cache and without, under edits and under standing ones."""

import logging
import threading
from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.lm import FrozenLM, PairedLM, caching
from sae_lightning.lm.bridge import hugging_face_bridge
from sae_lightning.lm.decoding import Decoder
from sae_lightning.lm.run import Edit
from sae_lightning.lm.standing import Place, stand
from sae_lightning.tokens import byte_tokenizer
from tests.lm.models import KINDS, UNKNOWN, random_model, save, with_twin

TOKENS = torch.randint(0, 256, (3, 40), generator=torch.Generator().manual_seed(0))
RESID, LATER, PATTERN = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post", "blocks.1.attn.hook_z"
OTHER = torch.randn(3, 40, 32, generator=torch.Generator().manual_seed(1))
PARTS = (0, 5, 6, 7, 8, 9, 12, *range(13, 41))  # some tokens at once, and over the end of windows of 8


def fed(decoder: Decoder, edits: Mapping[str, Edit], sites: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    """Feed TOKENS in PARTS; tensors among the edits are cut to each part."""
    rans = []
    for a, b in pairwise(PARTS):
        cut = {site: edit[:, a:b] if isinstance(edit, Tensor) else edit for site, edit in edits.items()}
        rans.append(decoder.feed(TOKENS[:, a:b], cut, sites=sites))
    return torch.cat([r.logits for r in rans], 1), {s: torch.cat([r.seen[s] for r in rans], 1) for s in sites}


def halved(value: Tensor) -> Tensor:
    return value * 0.5


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("edits", [{}, {RESID: OTHER}, {RESID: halved, "blocks.2.hook_mlp_out": halved}])
@pytest.mark.parametrize("kind", KINDS)
def test_fed_in_parts_a_text_gives_what_it_gives_whole(kind, edits, cached) -> None:
    lm, _ = with_twin(kind)
    decoder = Decoder(lm, cached=cached)
    logits, seen = fed(decoder, edits, (RESID, LATER))
    assert decoder.cached is cached, "a cache is kept where it was asked for"
    whole = lm.run(TOKENS, edits, sites=(RESID, LATER))
    torch.testing.assert_close(logits, whole.logits, rtol=1e-4, atol=1e-4)
    for site in (RESID, LATER):
        torch.testing.assert_close(seen[site], whole.seen[site], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", UNKNOWN)
def test_models_without_a_bridge_are_decoded_too(kind, tmp_path) -> None:
    lm = FrozenLM.load(save(random_model(kind), tmp_path / kind), dtype="float32")
    logits, _ = fed(Decoder(lm), {RESID: halved}, ())
    torch.testing.assert_close(logits, lm.logits(TOKENS, {RESID: halved}), rtol=1e-4, atol=1e-4)


def test_in_bfloat16_both_ways_are_within_rounding_and_take_the_same_likeliest_tokens() -> None:
    lm, _ = with_twin("llama", torch.bfloat16)
    ours, _ = fed(Decoder(lm), {RESID: halved}, ())
    theirs, _ = fed(Decoder(lm, cached=False), {RESID: halved}, ())
    wide, _ = with_twin("llama")
    exact = wide.logits(TOKENS, {RESID: halved})
    off, allowed = (ours.float() - theirs.float()).norm(), (theirs.float() - exact).norm()
    assert off < 2 * allowed, "no further from each other than bfloat16 is from float32"


def test_what_runs_through_the_bridge_alone_is_run_anew_each_time_and_said_once(caplog) -> None:
    tiny = FrozenLM.load("tiny", dtype="float32")
    site = "blocks.1.hook_resid_post"
    with caplog.at_level(logging.INFO):
        decoder = Decoder(tiny)
        logits, _ = fed(decoder, {site: halved}, ())
    assert not decoder.cached
    assert sum("without a cache" in line for line in caplog.messages) == 1
    torch.testing.assert_close(logits, tiny.logits(TOKENS, {site: halved}), rtol=1e-4, atol=1e-4)
    lm, _ = with_twin("llama")  # a hook inside the attention, which no module gives
    decoder = Decoder(lm)
    logits, _ = fed(decoder, {PATTERN: halved}, ())
    torch.testing.assert_close(logits, lm.logits(TOKENS, {PATTERN: halved}), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fault", ["raises", "forgets"])
def test_a_model_whose_cache_is_not_what_it_should_be_goes_without(fault, monkeypatch, caplog) -> None:
    lm, _ = with_twin("llama")
    whole = lm.logits(TOKENS)
    good = caching.new_cache

    def bad(model):
        if fault == "raises":
            raise TypeError("no such thing here")
        cache = good(model)
        update = cache.update

        def forgetful(keys, values, *rest, **more):
            keys, values = update(keys, values, *rest, **more)
            return (keys.flip(2), values.flip(2)) if keys.shape[2] > 20 else (keys, values)

        cache.update = forgetful
        return cache

    monkeypatch.setattr(caching, "new_cache", bad)
    with caplog.at_level(logging.INFO):
        decoder = Decoder(lm)
        logits, _ = fed(decoder, {}, ())
    assert not decoder.cached
    assert "without a cache" in caplog.text
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cached", [True, False])
def test_a_text_that_is_spread_goes_on_in_every_row_for_itself(cached) -> None:
    lm, _ = with_twin("llama")
    prompt = Decoder(lm, cached=cached)
    prompt.feed(TOKENS[:1, :10], {RESID: halved})
    more = prompt.spread(3)
    more.feed(TOKENS[:, 10:20], {RESID: halved})
    rows = more.feed(TOKENS[:, 20:], {RESID: halved}).logits
    for row in range(3):
        text = torch.cat([TOKENS[:1, :10], TOKENS[row : row + 1, 10:]], dim=1)
        alone = lm.logits(text, {RESID: halved})[:, 20:]
        torch.testing.assert_close(rows[row : row + 1], alone, rtol=1e-4, atol=1e-4)
    again = prompt.spread(1).feed(TOKENS[:1, 10:20], {RESID: halved}).logits
    torch.testing.assert_close(again, lm.logits(TOKENS[:1, :20], {RESID: halved})[:, 10:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cached", [True, False])
def test_what_was_written_in_a_text_that_is_spread_stays_written_in_every_row(cached) -> None:
    lm, _ = with_twin("llama")
    prompt = Decoder(lm, cached=cached)
    prompt.feed(TOKENS[:1, :10], {RESID: OTHER[:1, :10]})
    prompt.spread(2).feed(TOKENS[:2, 10:20], {RESID: OTHER[:2, 10:20]})  # which is nothing to the next
    rows = prompt.spread(3).feed(TOKENS[:, 10:20]).logits

    def begun(value: Tensor) -> Tensor:
        return torch.cat([OTHER[:1, :10].expand(3, -1, -1), value[:, 10:]], dim=1)

    text = torch.cat([TOKENS[:1, :10].expand(3, -1), TOKENS[:, 10:20]], dim=1)
    torch.testing.assert_close(rows, lm.logits(text, {RESID: begun})[:, 10:], rtol=1e-4, atol=1e-4)


def test_texts_beyond_the_context_and_two_models_at_once_are_one_line() -> None:
    lm, _ = with_twin("llama")
    decoder = Decoder(lm)
    decoder.feed(TOKENS)
    with pytest.raises(UserError, match="at most 64"):
        decoder.feed(TOKENS)
    with pytest.raises(UserError, match="generate with one"):
        Decoder(PairedLM(lm, lm))


class Adds:
    """Adds 1 at one site, doubles what another shows in a run without it, and notes what it was told."""

    def __init__(self, site: str, by: float = 1.0, reads: tuple[str, ...] = ()) -> None:
        self.writes, self.reads, self.by = (site,), reads, by
        self.places: list[Place] = []
        self.read: list[Mapping[str, Tensor]] = []

    def edits(self, place: Place, read: Mapping[str, Tensor]) -> dict[str, Edit]:
        self.places.append(place)
        self.read.append(read)
        return {site: lambda value: value + self.by for site in self.writes}


def test_edits_that_stand_are_part_of_every_run_and_of_none_after() -> None:
    lm, _ = with_twin("llama")
    clean = lm.run(TOKENS, sites=(RESID, LATER))
    want = lm.run(TOKENS, {RESID: lambda v: v + 1.0}, sites=(RESID, LATER))
    start = "blocks.0.hook_resid_post"
    below = lm.activations(TOKENS, [start])[start]
    keep = torch.rand(3, 40, generator=torch.Generator().manual_seed(1)) > 0.3
    with stand(lm, Adds(RESID)):
        assert torch.equal(lm.logits(TOKENS), want.logits)
        assert torch.equal(lm.run(TOKENS, start=(start, below)).logits, want.logits)
        read = lm.activations(TOKENS, [LATER, RESID])
        assert torch.equal(read[LATER], want.seen[LATER])
        assert torch.equal(read[RESID], want.seen[RESID])
        # A run's own edit comes first, and where it does not apply the standing one still does.
        both = lm.run(TOKENS, {RESID: OTHER}, keep=keep, sites=(RESID,)).seen[RESID]
        assert torch.equal(both, torch.where(keep[..., None], OTHER, clean.seen[RESID]) + 1.0)
        other_thread: list[Tensor] = []
        thread = threading.Thread(target=lambda: other_thread.append(lm.logits(TOKENS)))
        thread.start()
        thread.join()
        assert torch.equal(other_thread[0], clean.logits), "what one thread steers another reads as it is"
    assert torch.equal(lm.logits(TOKENS), clean.logits)
    with pytest.raises(KeyError), stand(lm, Adds(RESID)):
        raise KeyError("something in the block")
    assert torch.equal(lm.logits(TOKENS), clean.logits)


def test_of_two_that_stand_either_may_be_left_first() -> None:
    lm, _ = with_twin("llama")
    clean, second = lm.logits(TOKENS), lm.logits(TOKENS, {LATER: lambda v: v + 1.0})
    outer, inner = stand(lm, Adds(RESID)), stand(lm, Adds(LATER))
    outer.__enter__(), inner.__enter__()
    outer.__exit__(None, None, None)
    assert torch.equal(lm.logits(TOKENS), second)
    inner.__exit__(None, None, None)
    assert torch.equal(lm.logits(TOKENS), clean)


def test_of_nested_ones_the_inner_reads_a_run_with_the_outer_alone() -> None:
    lm, _ = with_twin("llama")
    outer, inner = Adds("blocks.0.hook_resid_post", 1.0), Adds(RESID, 2.0, reads=(LATER,))
    with stand(lm, outer):
        alone = lm.run(TOKENS, sites=(LATER,)).seen[LATER]
        with stand(lm, inner):
            lm.logits(TOKENS)
    assert torch.equal(inner.read[-1][LATER], alone)
    assert len(outer.places) == 3


@pytest.mark.parametrize("cached", [True, False])
def test_decoding_under_standing_edits_is_a_run_under_them(cached) -> None:
    lm, _ = with_twin("llama")
    reading = Adds(RESID, 2.0, reads=(LATER,))
    with stand(lm, Adds("blocks.0.hook_resid_post")), stand(lm, reading):
        whole = lm.run(TOKENS, {RESID: halved}, sites=(LATER,))
        seen_whole = reading.read[-1][LATER]
        reading.read.clear(), reading.places.clear()
        logits, seen = fed(Decoder(lm, cached=cached, before=2), {RESID: halved}, (LATER,))
    torch.testing.assert_close(logits, whole.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen[LATER], whole.seen[LATER], rtol=1e-4, atol=1e-4)
    last = reading.read[-1][LATER]
    torch.testing.assert_close(last, seen_whole[:, -last.shape[1] :], rtol=1e-4, atol=1e-4)
    assert {place.prompt for place in reading.places} == {PARTS[1]}
    assert {place.before for place in reading.places} == {2}
    assert reading.places[-1].first == (39 if cached else 0)


def test_no_hook_stays_on_the_model() -> None:
    bridged = FrozenLM(hugging_face_bridge(random_model("llama"), "llama"), byte_tokenizer(), name="llama")
    plain, twin = with_twin("llama")
    for lm, model in ((bridged, bridged.model), (plain, twin)):
        lm.logits(TOKENS)  # the bridge puts some of its own on
        before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        with stand(lm, Adds(RESID)):
            Decoder(lm).feed(TOKENS, {LATER: halved})
            with pytest.raises(ZeroDivisionError):
                lm.run(TOKENS, {LATER: lambda value: value / (1 // 0)})
        assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == before

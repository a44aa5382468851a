import itertools
import subprocess
import sys
import textwrap

import pytest
import torch

from sae_lightning.activations import ActivationSource, MaskPolicy, StopRequested, StreamSource
from sae_lightning.core import UserError
from sae_lightning.tokens import EpochOrder


def make(tools, seed=0, **options):
    options = {"batch_size": 24, "buffer_tokens": 150, "seed": seed, **options}
    return StreamSource(tools.harvester, EpochOrder(len(tools.windows), seed), **options)


def take(source, n):
    return list(itertools.islice(source, n))


def equal(a, b):
    return len(a) == len(b) and all(
        torch.equal(p.x, q.x) and torch.equal(p.token_index, q.token_index) for p, q in zip(a, b, strict=True)
    )


def same_state(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items())


def test_is_a_source_of_float32_batches(tools):
    source = make(tools)
    assert isinstance(source, ActivationSource)
    (batch,) = take(source, 1)
    assert batch.x.shape == (24, source.d_in)
    assert batch.x.dtype == torch.float32
    assert batch.y is batch.x


def test_rows_are_the_harvesters_and_no_kept_token_is_lost_in_an_epoch(tools):
    source = make(tools)
    batches = take(source, 320)
    n = len(tools.windows)
    rows = tools.harvester.rows(range(n))
    by_token = dict(zip(rows.token_index.tolist(), rows.x.float(), strict=True))
    for batch in batches[:5]:
        for index, x in zip(batch.token_index.tolist(), batch.x, strict=True):
            torch.testing.assert_close(x, by_token[index], rtol=0.02, atol=0.02)
    # Handed out so far and still in the buffer: every token as often as its window was read.
    state = source.state_dict()
    seen = torch.cat([b.token_index for b in batches] + [state["token_index"]])
    read = tools.harvester.rows(source.order.take(range(state["position"]))).token_index
    assert torch.equal(seen.sort().values, read.sort().values)
    assert state["position"] > n, "went round the corpus"


def test_seeds(tools):
    assert equal(take(make(tools), 12), take(make(tools), 12))
    assert not equal(take(make(tools), 3), take(make(tools, seed=1), 3))


def test_resume_is_exact_wherever_it_stops(tools):
    whole = take(make(tools), 30)
    source = make(tools)
    for done in range(20):
        state = source.state_dict()
        fresh = make(tools)
        take(fresh, 2)
        fresh.load_state_dict(state)
        assert equal(take(fresh, 8), whole[done : done + 8]), done
        assert equal(take(source, 1), whole[done : done + 1])


def test_state_holds_tensors_and_primitives_and_survives_weights_only(tools, tmp_path):
    source = make(tools)
    take(source, 5)
    torch.save(source.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert loaded["x"].dtype == tools.lm.dtype
    expected = take(source, 7)
    fresh = make(tools)
    fresh.load_state_dict(loaded)
    assert equal(take(fresh, 7), expected)


def test_an_earlier_snapshot_can_still_be_written_after_batches_were_fetched_ahead(tools):
    source = make(tools)
    take(source, 3)
    mark = source.snapshot()
    ahead = take(source, 9)
    fresh = make(tools)
    fresh.load_state_dict(source.state_dict(mark))
    assert equal(take(fresh, 9), ahead)


@pytest.mark.parametrize("calls", [1, 2, 5, 8])
def test_interrupted_inside_the_lm_the_state_is_that_of_the_last_batch(tools, monkeypatch, calls):
    """The harvester raises in the middle of a refill; state_dict is also asked from inside it."""
    whole = take(make(tools), 25)
    source = make(tools)
    done = take(source, 1)
    while not source.buffer.needs_refill(source.snapshot()):
        done += take(source, 1)
    before = source.state_dict()
    rows, count, inside = tools.harvester.rows, 0, []

    def interrupt(numbers, check=None):
        nonlocal count
        count += 1
        inside.append(source.state_dict())
        if count == calls:
            raise KeyboardInterrupt
        return rows(numbers, check)

    monkeypatch.setattr(tools.harvester, "rows", interrupt)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - what was done before it is the point
        for _ in range(20):
            done += take(source, 1)
            before = source.state_dict()
            inside.clear()
    monkeypatch.undo()
    inside.append(source.state_dict())
    assert all(same_state(state, before) for state in inside)
    fresh = make(tools)
    fresh.load_state_dict(inside[0])
    rest = take(fresh, 25 - len(done))
    assert equal(done + rest, whole)
    assert equal(done + take(source, 25 - len(done)), whole), "the interrupted source itself goes on too"


def test_request_stop_is_heard_before_the_next_micro_batch(tools, monkeypatch):
    source = make(tools)
    calls = 0
    activations = tools.lm.activations

    def counting(tokens, sites):
        nonlocal calls
        calls += 1
        if calls == 2:
            source.request_stop()
        return activations(tokens, sites)

    monkeypatch.setattr(tools.lm, "activations", counting)
    before = source.state_dict()
    with pytest.raises(StopRequested):
        next(iter(source))
    assert calls == 2
    assert same_state(source.state_dict(), before)
    with pytest.raises(StopRequested):
        source.next()
    source.resume()
    monkeypatch.undo()
    assert equal(take(source, 3), take(make(tools), 3))


def test_resume_in_a_fresh_process_is_bit_equal(tools, tmp_path):
    source = make(tools)
    take(source, 7)
    torch.save({"state": source.state_dict(), "mask": tools.harvester.mask.to_dict()}, tmp_path / "state.pt")
    expected = take(source, 6)
    script = textwrap.dedent(
        f"""
        import itertools, sys, torch
        torch.set_num_threads(1)
        from sae_lightning.activations import Harvester, MaskPolicy, StreamSource
        from sae_lightning.core import Sites
        from sae_lightning.lm import FrozenLM
        from sae_lightning.tokens import TokenStore, Windows
        saved = torch.load({str(tmp_path / "state.pt")!r}, weights_only=True)
        lm = FrozenLM.load("tiny", dtype="bfloat16")
        store = TokenStore.open({str(tools.windows.store.path)!r})
        windows = Windows(store, "train", context_length=16, separator_id=lm.separator_id, seed=0)
        site = ({tools.harvester.sites.read[0]!r},)
        harvester = Harvester(lm, Sites(site, site), windows, MaskPolicy.from_dict(saved["mask"]), 4)
        source = StreamSource(harvester, windows.order(), batch_size=24, buffer_tokens=150, seed=0)
        source.load_state_dict(saved["state"])
        batches = list(itertools.islice(source, 6))
        torch.save([(b.x, b.token_index) for b in batches], {str(tmp_path / "out.pt")!r})
        """
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    got = torch.load(tmp_path / "out.pt", weights_only=True)
    assert all(torch.equal(b.x, x) and torch.equal(b.token_index, i) for b, (x, i) in zip(expected, got, strict=True))


def test_a_state_of_another_stream_is_refused(tools):
    state = make(tools).state_dict()
    with pytest.raises(UserError, match="batch_size was 24, is 25 now"):
        make(tools, batch_size=25).load_state_dict(state)
    with pytest.raises(UserError, match="order_seed"):
        make(tools, seed=3).load_state_dict(state)
    with pytest.raises(UserError, match="no description"):
        make(tools).load_state_dict({})


def test_mistakes(tools):
    with pytest.raises(UserError, match="fewer than one batch"):
        make(tools, batch_size=10**6, buffer_tokens=10**6)
    with pytest.raises(ValueError, match="run calibrate first"):
        StreamSource(tools.harvester.with_mask(MaskPolicy()), tools.windows.order(), batch_size=2, buffer_tokens=4)
    nothing = tools.harvester.with_mask(MaskPolicy(tuple(range(257)), norm_multiple=None))
    with pytest.raises(UserError, match="leaves no token"):
        StreamSource(nothing, tools.windows.order(), batch_size=2, buffer_tokens=4).next()

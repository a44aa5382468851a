"""Harvesting ahead: the same batches and states, and nothing left running."""

import threading
import time

import pytest
import torch

from sae_lightning.activations import StopRequested
from sae_lightning.activations.prefetch import Prefetch
from sae_lightning.core import ActivationBatch
from tests.activations.test_stream import equal, make, same_state, take


@pytest.mark.parametrize("options", [{}, {"mix": 0.0}, {"share": 0.4, "share_seed": 3}, {"budget": 24 * 30}])
def test_batches_and_states_are_the_same(tools, options) -> None:
    source, plain = make(tools, ahead=True, **options), make(tools, **options)
    for number in range(30):
        assert equal([source.next()], [plain.next()]), number
        assert same_state(source.state_dict(), plain.state_dict()), number
    source.close()


def test_the_thread_reads_what_the_next_refill_takes(tools, monkeypatch) -> None:
    threads: list[str] = []
    rows = tools.harvester.rows

    def noting(numbers, check=None):
        threads.append(threading.current_thread().name)
        return rows(numbers, check)

    def until_refilled(source) -> None:
        while not source.buffer.needs_refill(source.snapshot()):
            source.next()
        source.next()

    monkeypatch.setattr(tools.harvester, "rows", noting)
    source, plain = make(tools, ahead=True), make(tools)
    source.next()
    source._prefetch._ahead._thread.join(10)
    ahead, own = threads.count("prefetch"), threads.count("MainThread")
    assert ahead > 0
    until_refilled(source)
    source.close()
    assert threads.count("MainThread") == own, "the refill takes what is there"
    threads.clear()
    plain.next()
    assert len(threads) == own
    until_refilled(plain)
    assert len(threads) == own + ahead, "no more was read ahead than the refill takes"


def test_nothing_is_read_behind_the_budget(tools, monkeypatch) -> None:
    counts = []
    for ahead in (True, False):
        read = 0
        rows = tools.harvester.rows

        def counting(numbers, check=None, rows=rows):
            nonlocal read
            read += 1
            return rows(numbers, check)

        monkeypatch.setattr(tools.harvester, "rows", counting)
        source = make(tools, ahead=ahead, budget=24 * 20)
        take(source, 20)
        source.close()
        monkeypatch.undo()
        counts.append(read)
    assert counts[0] == counts[1]


def test_a_resumed_source_forgets_what_was_ahead_of_another_state(tools) -> None:
    source, plain = make(tools, ahead=True), make(tools)
    mark = source.state_dict()
    first = take(source, 12)
    source.load_state_dict(mark)
    assert equal(take(source, 12), first)
    assert equal(take(plain, 12), first)
    later = plain.state_dict()
    source.load_state_dict(later)
    assert equal(take(source, 12), take(plain, 12))
    source.close()


def test_a_request_to_stop_ends_the_thread_and_changes_nothing(tools) -> None:
    source, plain = make(tools, ahead=True), make(tools)
    take(source, 2)
    take(plain, 2)
    source.request_stop()
    with pytest.raises(StopRequested):
        source.next()
    source._prefetch._ahead._thread.join(10)
    assert not source._prefetch._ahead._thread.is_alive()
    source.resume()
    assert equal(take(source, 12), take(plain, 12))
    source.close()
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_a_stop_is_heard_while_waiting_for_the_thread() -> None:
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise StopRequested

    def slow(position, go_on):
        while True:
            time.sleep(0.01)
            go_on()
            yield from ()

    prefetch = Prefetch(slow, check)
    prefetch.begin(0, 5)
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(StopRequested):
        next(prefetch.parts(0))
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_a_failure_ahead_shows_where_it_belongs() -> None:
    def harvest(position, go_on):
        for place in range(position, 10):
            go_on()
            if place == 2:
                raise RuntimeError("the third")
            x = torch.full((1, 2), float(place))
            yield ActivationBatch(x=x, y=x, token_index=torch.tensor([place])), place + 1

    prefetch = Prefetch(harvest, lambda: None)
    prefetch.begin(0, 5)
    got = []
    with pytest.raises(RuntimeError, match="the third"):  # noqa: PT012 - what came before it is the point
        for part, _ in prefetch.parts(0):
            got.append(int(part.token_index))
    assert got == [0, 1]

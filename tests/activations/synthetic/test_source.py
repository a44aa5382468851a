"""A synthetic stream: endless, resumable to the bit, and held out from its own evaluation."""

import itertools

import pytest
import torch

from sae_lightning.activations import ActivationSource, StopRequested
from sae_lightning.activations.synthetic import SyntheticRows, SyntheticSource
from sae_lightning.core import UserError
from tests.activations.synthetic.small import small


def take(source: SyntheticSource, n: int) -> list[torch.Tensor]:
    return [batch.x for batch in itertools.islice(source, n)]


def test_it_is_a_source_whose_rows_do_not_depend_on_the_batch_size() -> None:
    model = small()
    source = SyntheticSource(model, 700, seed=2)
    assert isinstance(source, ActivationSource)
    rows = torch.cat(take(source, 6))
    assert torch.equal(rows, torch.cat(take(SyntheticSource(model, 2100, seed=2), 2)))
    assert torch.equal(rows[1024:2048], model.block(1, "train", 2)[0])
    batch = next(iter(source))
    assert batch.x is batch.y
    assert batch.token_index.tolist() == list(range(4200, 4900))
    assert not torch.equal(rows[:700], take(SyntheticSource(model, 700, seed=3), 1)[0])


@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_resumed_stream_goes_on_with_the_same_bits(at: int) -> None:
    source = SyntheticSource(small(), 600, seed=1)
    take(source, at)
    mark = source.snapshot()
    state = source.state_dict()
    wanted = take(source, 4)
    assert source.state_dict(mark) == state
    other = SyntheticSource(small(), 600, seed=1)
    other.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(wanted, take(other, 4), strict=True))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (lambda: SyntheticSource(small(seed=1), 600), "model"),
        (lambda: SyntheticSource(small(), 500), "batch_size"),
        (lambda: SyntheticSource(small(), 600, seed=1), "seed"),
    ],
)
def test_the_state_of_another_stream_is_refused(other, what: str) -> None:
    state = SyntheticSource(small(), 600).state_dict()
    with pytest.raises(UserError, match=what):
        other().load_state_dict(state)


def test_held_out_rows_and_the_sample_are_streams_of_their_own() -> None:
    model = small()
    source, held = SyntheticSource(model, 1000), SyntheticRows(model, n_blocks=4)
    sample, trained = source.sample(1500), torch.cat(take(source, 5))
    assert sample.shape == (1500, 16)
    assert source.snapshot() == 5000
    rows = held.rows_between(0, held.n)
    assert rows.shape == (4096, 16)
    assert torch.equal(held.rows_between(1000, 1100), rows[1000:1100])
    assert torch.equal(held.rows_between(4000, 9999), rows[4000:])
    assert torch.equal(rows[:1024], model.block(0)[0])
    every = torch.cat([sample, trained, rows])
    assert len(torch.unique(every, dim=0)) == len(every)


def test_it_stops_when_asked_and_needs_a_row_a_batch() -> None:
    source = SyntheticSource(small(), 10)
    source.request_stop()
    with pytest.raises(StopRequested):
        next(iter(source))
    source.close()
    with pytest.raises(UserError, match="batch_size=0"):
        SyntheticSource(small(), 0)

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lightning.activations import ShuffleBuffer
from sae_lightning.core import ActivationBatch, UserError


def parts(first=0, size=10, dtype=torch.bfloat16, targets=False):
    """An endless stream of rows whose x tells their number."""
    while True:
        index = torch.arange(first, first + size)
        x = torch.stack([index // 256, index % 256], 1).to(dtype)
        yield ActivationBatch(x=x, y=x * 2 if targets else x, token_index=index), first + size
        first += size


def run(buffer, n, state=None, targets=False):
    state = buffer.empty(2, 2, same=not targets) if state is None else state
    batches = []
    for _ in range(n):
        if buffer.needs_refill(state):
            state = buffer.refill(state, parts(state.position, targets=targets))
        batch, state = buffer.draw(state)
        batches.append(batch)
    return batches, state


@settings(max_examples=40, deadline=None)
@given(
    capacity=st.integers(1, 90),
    batch_size=st.integers(1, 40),
    mix=st.floats(0, 0.95),
    seed=st.integers(0, 3),
    slack=st.sampled_from([0, 10]),
)
def test_every_row_comes_out_exactly_once(capacity, batch_size, mix, seed, slack):
    batch_size = min(batch_size, capacity)
    buffer = ShuffleBuffer(capacity, batch_size, mix=mix, seed=seed, slack=slack)
    batches, state = run(buffer, 12)
    out = torch.cat([batch.token_index for batch in batches])
    rest = state.token_index[state.order[state.taken :]]
    assert sorted(torch.cat([out, rest]).tolist()) == list(range(state.position))
    assert len(state.order) < capacity + 10
    for batch in batches:
        assert len(batch) == batch_size
        assert batch.x.dtype == torch.float32
        assert torch.equal(batch.x[:, 0] * 256 + batch.x[:, 1], batch.token_index.float())


def test_the_share_that_stays_is_mix():
    buffer = ShuffleBuffer(100, 10, mix=0.3, seed=0)
    state = buffer.refill(buffer.empty(2, 2), parts())
    drawn = 0
    while not buffer.needs_refill(state):
        _, state = buffer.draw(state)
        drawn += 10
    assert (drawn, state.remaining) == (70, 30)


def test_seeds_and_shuffling():
    a, b, c = (run(ShuffleBuffer(60, 10, seed=s), 8)[0] for s in (0, 0, 1))
    assert all(torch.equal(p.x, q.x) for p, q in zip(a, b, strict=True))
    assert any(not torch.equal(p.x, q.x) for p, q in zip(a, c, strict=True))
    # Rows of one harvested part are spread over batches.
    assert max(int((batch.token_index // 10 == 0).sum()) for batch in a) < 10


@pytest.mark.parametrize("targets", [False, True])
def test_packed_state_continues_with_the_same_bits(targets):
    buffer = ShuffleBuffer(60, 8, seed=0)
    for stop in range(1, 14):
        _, state = run(buffer, stop, targets=targets)
        expected, _ = run(buffer, 9, state, targets=targets)
        packed = buffer.pack(state)
        assert packed["x"].untyped_storage().nbytes() == packed["x"].numel() * 2, "only the rows still to come"
        got, _ = run(buffer, 9, buffer.unpack(packed), targets=targets)
        for p, q in zip(expected, got, strict=True):
            assert torch.equal(p.x, q.x)
            assert torch.equal(p.y, q.y)
            assert torch.equal(p.token_index, q.token_index)


def test_states_are_values():
    """Refilling and drawing leave the state they start from usable."""
    buffer = ShuffleBuffer(60, 8, seed=0)
    _, state = run(buffer, 3)
    before = buffer.pack(state)
    run(buffer, 20, state)
    after = buffer.pack(state)
    assert all(torch.equal(before[k], after[k]) for k in ("x", "token_index", "generator"))


@pytest.mark.parametrize("budget", [5, 37, 100, 220])
def test_near_the_budget_only_what_is_needed_is_harvested(budget):
    free, _ = run(ShuffleBuffer(50, 10, seed=0), 1)
    buffer = ShuffleBuffer(50, 10, seed=0, budget=budget)
    n = -(-budget // 10)
    _, state = run(buffer, n)
    assert state.handed >= budget
    assert state.position < max(budget, 10) + 20
    if budget >= 50:
        assert torch.equal(run(buffer, 1)[0][0].x, free[0].x), "early batches are the same with and without"
    assert len(run(buffer, n + 20)[0]) == n + 20, "asking for more still works"


def test_mistakes():
    with pytest.raises(UserError, match="at least data"):
        ShuffleBuffer(10, 20, seed=0)
    with pytest.raises(UserError, match="below 1"):
        ShuffleBuffer(10, 5, mix=1.0, seed=0)
    with pytest.raises(UserError, match="batch_size=0"):
        ShuffleBuffer(10, 0, seed=0)

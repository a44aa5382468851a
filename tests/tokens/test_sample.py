"""The window sample: a prefix of one order, whatever the budget and whoever asks."""

import numpy as np
import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.tokens import ListSource, Windows, WindowSample, byte_tokenizer, write_tokens


@pytest.fixture
def base(tmp_path) -> Windows:  # type: ignore[no-untyped-def]
    source = ListSource([f"text number {i}, which says something of its own " * 3 for i in range(60)])
    store = write_tokens(source, byte_tokenizer(), tmp_path / "t.bin", vocab_size=257)
    return Windows(store, "all", context_length=24, separator_id=256)


def test_a_larger_sample_begins_with_the_smaller_one(base: Windows) -> None:
    small, large = WindowSample(base, 10), WindowSample(base, 33)
    one, other = small.batch(np.arange(10)), large.batch(np.arange(10))
    for field in ("tokens", "mask", "token_index", "text_index", "start"):
        assert torch.equal(getattr(one, field), getattr(other, field))


def test_it_is_the_whole_in_another_order_and_spread_over_the_corpus(base: Windows) -> None:
    whole = WindowSample(base)
    assert len(whole) == len(base)
    assert WindowSample(base, 10**9).identity() == whole.identity()
    index = whole.batch(np.arange(len(base))).token_index
    plain = base.batch(np.arange(len(base))).token_index
    assert sorted(map(tuple, index.tolist())) == sorted(map(tuple, plain.tolist()))
    assert not torch.equal(index, plain)
    texts = WindowSample(base, len(base) // 3).batch(np.arange(len(base) // 3)).text_index
    assert texts.min() < 15
    assert texts.max() > 45


def test_it_counts_what_it_has(base: Windows) -> None:
    assert WindowSample(base).n_tokens == base.n_tokens
    part = WindowSample(base, len(base) // 2)
    real = int((part.batch(np.arange(len(part))).token_index >= 0).sum())
    assert part.n_tokens == pytest.approx(real, rel=0.05)
    assert (part.split, part.context_length, part.store) == (base.split, base.context_length, base.store)


def test_identity_tells_text_and_size(base: Windows) -> None:
    names = {WindowSample(base, n).identity() for n in (5, 6, None)} | {base.identity()}
    assert len(names) == 4


def test_numbers_outside_are_refused(base: Windows) -> None:
    with pytest.raises(IndexError, match=r"outside 0\.\.4"):
        WindowSample(base, 5).batch([5])
    with pytest.raises(UserError, match="at least one"):
        WindowSample(base, 0)
    assert len(WindowSample(base, 5).batch([]).tokens) == 0

"""Windows against a naive version on lists, and the properties every split must have."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sae_lightning.core import TokenBatch, UserError
from sae_lightning.tokens import TokenStore, Windows

PAD = 7
Cell = tuple[int, bool, int]  # id, mask, token index

shared_store = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
corpora = st.lists(st.lists(st.integers(10, 40), max_size=12), min_size=1, max_size=12)
cuts = st.fixed_dictionaries(
    {
        "context_length": st.integers(2, 9),
        "packing": st.sampled_from(["packed", "document"]),
        "separator_id": st.sampled_from([None, 0]),
        "prepend_bos": st.booleans(),
    }
)


def naive(store: TokenStore, documents: list[int], cut: dict[str, Any]) -> list[list[Cell]]:
    """Cut windows cell by cell, one Python loop a rule of the class docstring."""
    room = cut["context_length"] - cut["prepend_bos"]
    texts = []
    for number in documents:
        begin = int(store.starts[number])
        texts.append([(int(token), True, begin + i) for i, token in enumerate(store.document(number))])
    if cut["packing"] == "packed":
        ending = [] if cut["separator_id"] is None else [(cut["separator_id"], True, -1)]
        stream = [cell for text in texts for cell in (*text, *ending)]
        pieces = [stream[i : i + room] for i in range(0, len(stream), room)]
        if len(pieces) > 1 and len(pieces[-1]) < room:
            pieces.pop()
    else:
        pieces = [text[i : i + room] for text in texts for i in range(0, len(text), room)]
    first: list[Cell] = [(5, True, -1)] if cut["prepend_bos"] else []
    return [first + piece + [(PAD, False, -1)] * (room - len(piece)) for piece in pieces]


def cells(batch: TokenBatch) -> list[list[Cell]]:
    columns = (batch.tokens.tolist(), batch.mask.tolist(), batch.token_index.tolist())
    return [list(zip(*row, strict=True)) for row in zip(*columns, strict=True)]


@shared_store
@given(texts=corpora, cut=cuts, ended=st.booleans())
def test_windows_equal_the_naive_cut(make_store, texts, cut, ended) -> None:
    assume(any(texts))
    store = make_store(texts, ended=ended or not texts[-1])
    windows = Windows(store, "all", bos_id=5, pad_id=PAD, **cut)
    expected = naive(store, [i for i, text in enumerate(texts) if text], cut)
    assert len(windows) == len(expected)
    order = np.random.default_rng(0).permutation(len(windows))
    assert cells(windows.batch(order)) == [expected[i] for i in order]


@shared_store
@given(texts=corpora, cut=cuts)
def test_every_token_knows_its_text_and_is_there_at_most_once(make_store, texts, cut) -> None:
    assume(any(texts))
    store = make_store(texts)
    windows = Windows(store, "all", bos_id=5, **cut)
    batch = windows.batch(np.arange(len(windows)))
    real = batch.token_index >= 0
    index, tokens = batch.token_index[real].numpy(), batch.tokens[real].numpy()
    assert len(np.unique(index)) == len(index)
    assert (store.take(index) == tokens).all()
    text, place = store.locate(index)
    assert [texts[t][p] for t, p in zip(text, place, strict=True)] == tokens.tolist()
    lost = windows.n_tokens - len(index)
    assert lost == 0 if cut["packing"] == "document" else lost < cut["context_length"]
    for row in range(len(windows)):
        here = batch.token_index[row][real[row]]
        if len(here):
            assert (batch.text_index[row], batch.start[row]) == store.locate(here[:1].numpy())


@shared_store
@given(texts=corpora, copies=st.integers(1, 3), fraction=st.floats(0.1, 0.9))
def test_train_and_heldout_share_no_text_and_leave_none_out(make_store, texts, copies, fraction) -> None:
    store = make_store(texts * copies)
    sides: dict[str, Counter[tuple[int, ...]]] = {}
    for split in ("train", "heldout"):
        try:
            windows = Windows(store, split, context_length=4, heldout_fraction=fraction)
        except UserError:
            sides[split] = Counter()
            continue
        sides[split] = Counter(tuple(map(int, store.document(i))) for i in windows.documents)
        batch = windows.batch(np.arange(len(windows)))
        seen, _ = store.locate(batch.token_index[batch.token_index >= 0].numpy())
        assert set(seen) <= set(windows.documents)
    assert not sides["train"].keys() & sides["heldout"].keys()
    assert sides["train"] + sides["heldout"] == Counter(tuple(text) for text in texts * copies if text)


def random_texts(n: int, seed: int = 0) -> list[list[int]]:
    return np.random.default_rng(seed).integers(0, 1000, size=(n, 4)).tolist()


def test_a_text_is_on_the_same_side_in_any_file_order_width_and_seed(make_store) -> None:
    texts = random_texts(400)
    heldout = []
    stores = (make_store(texts), make_store(texts[::-1], dtype="uint32", separator=70000), make_store(texts * 2))
    for seed, store in enumerate(stores):
        windows = Windows(store, "heldout", context_length=4, heldout_fraction=0.3, seed=seed)
        heldout.append({tuple(map(int, store.document(i))) for i in windows.documents})
    assert heldout[0] == heldout[1] == heldout[2]
    assert 80 < len(heldout[0]) < 160


def test_a_larger_fraction_only_adds_texts_and_shares_are_right(make_store) -> None:
    store = make_store(random_texts(20_000))
    some = Windows(store, "heldout", context_length=4, heldout_fraction=0.05).documents
    more = Windows(store, "heldout", context_length=4, heldout_fraction=0.2).documents
    assert set(some) < set(more)
    # Four standard deviations of a binomial.
    assert abs(len(some) / 20_000 - 0.05) < 0.0062
    assert abs(len(more) / 20_000 - 0.2) < 0.0114


def test_fractions_0_and_1_read_no_hashes(make_store) -> None:
    store = make_store(random_texts(5))
    assert len(Windows(store, "train", context_length=4, heldout_fraction=0).documents) == 5
    assert len(Windows(store, "heldout", context_length=4, heldout_fraction=1).documents) == 5
    assert "document_hashes" not in vars(store)


def test_a_corpus_shorter_than_a_window_is_padded(make_store) -> None:
    batch = Windows(make_store([[11, 12]]), "all", context_length=6, separator_id=0).batch([0])
    assert batch.tokens.tolist() == [[11, 12, 0, 0, 0, 0]]
    assert batch.mask.tolist() == [[True, True, True, False, False, False]]
    assert batch.token_index.tolist() == [[0, 1, -1, -1, -1, -1]]


def test_identity_follows_content_and_cut_not_the_seed(make_store) -> None:
    texts = random_texts(50)
    first, copy, other = make_store(texts), make_store(texts), make_store(texts[1:])
    name = Windows(first, "train", context_length=4).identity()
    assert name == Windows(copy, "train", context_length=4, seed=9).identity()
    others = [
        Windows(other, "train", context_length=4),
        Windows(first, "all", context_length=4),
        Windows(first, "train", context_length=5),
        Windows(first, "train", context_length=4, separator_id=0),
        Windows(first, "train", context_length=4, packing="document"),
        Windows(first, "train", context_length=4, heldout_fraction=0.06),
    ]
    assert len({name, *(windows.identity() for windows in others)}) == 7


def test_window_numbers_outside_are_refused(make_store) -> None:
    windows = Windows(make_store([[11, 12, 13, 14]]), "all", context_length=2)
    with pytest.raises(IndexError):
        windows.batch([len(windows)])
    with pytest.raises(IndexError):
        windows.batch([-1])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"heldout_fraction": 1.5}, "heldout_fraction=1.5"),
        ({"prepend_bos": True}, "BOS"),
        ({"prepend_bos": True, "bos_id": 1, "context_length": 1}, "context_length=1"),
        ({"context_length": 0}, "context_length=0"),
        ({"packing": "pack"}, "packing='pack'"),
    ],
)
def test_wrong_options(make_store, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        Windows(make_store([[11, 12]]), "all", **({"context_length": 4} | wrong))


def test_an_empty_side_names_the_fraction_and_the_number_of_texts(make_store) -> None:
    store = make_store([[11, 12], [13]])
    with pytest.raises(UserError, match=r"none of its 2 documents is held out at data.heldout_fraction=0.0001"):
        Windows(store, "heldout", context_length=4, heldout_fraction=0.0001)
    with pytest.raises(UserError, match=r"left for split=train.*lower"):
        Windows(store, "train", context_length=4, heldout_fraction=1)
    with pytest.raises(UserError, match="no tokens"):
        Windows(make_store([[], []]), "all", context_length=4)

"""Exact source characters for every token, and contexts that stay inside their text."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lightning.store.texts import Cutter
from sae_lightning.tokens import byte_tokenizer, sound
from tests.store.planted import HOSTILE, Planted, made_up_texts, planted_store


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return planted_store(tmp_path_factory.mktemp("store"), texts=[*made_up_texts(), HOSTILE, "", "  \n", "last"])


def test_pieces_joined_are_the_source(planted: Planted) -> None:
    store = planted.store
    texts = [sound(text) for text in planted.texts if text]
    assert store.n_texts <= len(texts)
    for text in range(store.n_texts - 1):
        first, last = int(store.text_starts[text]), int(store.text_starts[text + 1])
        assert store.text(text) == texts[text]
        assert "".join(store.pieces(first, last)) == texts[text]
        assert (store.text_index[first:last] == text).all()
        assert store.position[first:last].tolist() == list(range(last - first))
    # The last one may be cut by the last window: its tokens are its beginning.
    last_text = store.n_texts - 1
    begun = "".join(store.pieces(int(store.text_starts[last_text]), store.n_tokens))
    assert store.text(last_text).startswith(begun)
    assert planted.texts.index(HOSTILE) < store.n_texts


def test_a_token_is_its_bytes(planted: Planted) -> None:
    """The byte tokenizer's ids are bytes: those of a text, in order, are its UTF-8."""
    store = planted.store
    for text in range(store.n_texts - 1):
        first, last = int(store.text_starts[text]), int(store.text_starts[text + 1])
        assert bytes(store.token_ids[first:last].astype(np.uint8)) == store.text(text).encode("utf-8")
        for token in range(first, last):
            piece = store.pieces(token, token + 1)[0].encode("utf-8")
            # The first byte of a character stands for all of it, the others for nothing.
            assert piece == b"" if 0x80 <= store.token_ids[token] < 0xC0 else piece[0] == store.token_ids[token]


def test_numbers_and_titles_go_back_to_the_corpus(planted: Planted) -> None:
    for text in range(planted.store.n_texts):
        number = int(planted.store.document[text])
        assert planted.store.text(text) == sound(planted.texts[number])
        assert planted.store.meta(text) == {
            "title": f"Text <b>{number}</b>",
            "link": f"https://example.org/{number}",
        }


@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 2), (1000, 1000)])
def test_context_in_tokens(planted: Planted, before: int, after: int) -> None:
    store = planted.store
    for token in range(0, store.n_tokens, 7):
        found = store.context(token, before, after)
        text = int(store.text_index[token])
        begin, end = int(store.text_starts[text]), int(store.text_starts[text + 1])
        first, last = max(begin, token - before), min(end, token + 1 + after)
        assert (found.first, found.last, found.text) == (first, last, text)
        assert found.before == "".join(store.pieces(first, token))
        assert found.token == store.pieces(token, token + 1)[0]
        assert found.after == "".join(store.pieces(token + 1, last))
        assert found.position == token - begin


@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 1), (2, 3), (100, 100)])
def test_context_in_words(planted: Planted, before: int, after: int) -> None:
    store = planted.store
    for token in range(0, store.n_tokens, 5):
        found = store.context(token, before, after, unit="words")
        text = int(store.text_index[token])
        begin = int(store.text_starts[text])
        source = store.text(text)
        left = "".join(store.pieces(begin, token))
        # Naively: words of the source that end before the token, and those that begin after it.
        own_end = len(left) + len(store.pieces(token, token + 1)[0])
        spans = [match.span() for match in re.finditer(r"\S+", source)]
        whole_before = [span for span in spans if span[1] <= len(left)]
        behind = [span for span in spans if span[0] >= own_end]
        shown = found.before + found.token + found.after
        at = len(left) - len(found.before)
        assert source[at : at + len(shown)] == shown
        if before and whole_before:
            assert at <= whole_before[-before:][0][0]
            if len(whole_before) > before:
                assert at >= whole_before[-before - 1][1]
        if text < store.n_texts - 1:  # the last one is cut
            if after and behind:
                assert at + len(shown) >= behind[:after][-1][1]
            if len(behind) > after:
                assert at + len(shown) <= behind[after][0] + 1


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_tiled_by_its_tokens(text: str) -> None:
    found = Cutter(byte_tokenizer()).ids_and_ends(text)
    assert found is not None
    ids, ends = found
    assert len(ids) == len(text.encode("utf-8"))
    assert (np.diff(ends) >= 0).all()
    if text:
        assert ends[-1] == len(text.encode("utf-8"))
        for end in ends.tolist():
            text.encode("utf-8")[:end].decode("utf-8")  # whole characters


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=40), st.integers(0, 40))
def test_a_text_that_is_not_at_hand_is_decoded(text: str, cut: int) -> None:
    """As from a token file that came without its text; a cut inside a character leaves no UTF-8."""
    cutter = Cutter(byte_tokenizer())
    ids = np.frombuffer(text.encode("utf-8")[:cut], np.uint8).astype(np.int64)
    written, ends = cutter.decoded(ids)
    assert len(ends) == len(ids)
    assert (ends[-1] if len(ids) else 0) == len(written.encode("utf-8"))
    try:
        assert written == text.encode("utf-8")[:cut].decode("utf-8")
    except UnicodeDecodeError:
        assert "\ufffd" in written


def test_parquet_holds_the_same(planted: Planted, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    store = planted.store
    folder = store.to_parquet(tmp_path / "tables")
    tokens = pq.read_table(folder / "tokens.parquet").to_pydict()
    assert tokens["piece"] == store.pieces(0, store.n_tokens)
    for name, ours in (("token_id", store.token_ids), ("text", store.text_index), ("kept", store.kept)):
        assert np.array_equal(tokens[name], ours)
    pairs = pq.read_table(folder / "activations.parquet").to_pydict()
    dense = np.zeros_like(planted.dense)
    dense[pairs["token"], pairs["feature"]] = pairs["value"]
    assert np.array_equal(dense, planted.dense)
    texts = pq.read_table(folder / "texts.parquet").to_pydict()
    assert texts["content"] == [store.text(i) for i in range(store.n_texts)]


@pytest.mark.parametrize("text", ["", "a river", "日本 Zürich"])
def test_a_text_gives_its_own_ids_and_no_others(text: str) -> None:
    ids = np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64)
    cutter = Cutter(byte_tokenizer())
    assert cutter.gives(text, ids)
    assert cutter.gives(text + " and more", ids)
    assert not cutter.gives(text, np.append(ids, 65))

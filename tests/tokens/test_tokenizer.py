"""The byte tokenizer, tokenizer identity, and windows as text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lightning.tokens import Windows, byte_tokenizer, decode_window, tokenizer_hash

TOKENIZER = byte_tokenizer()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.text(max_size=40).filter(lambda text: "<|endoftext|>" not in text))
def test_ids_are_the_bytes_and_decode_to_the_text(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert ids == list(text.encode())
    assert TOKENIZER.decode(ids) == text


def test_every_byte_has_its_id_and_the_end_is_256() -> None:
    assert len(TOKENIZER) == 257
    assert sorted(TOKENIZER.get_vocab().values()) == list(range(257))
    assert TOKENIZER.bos_token_id == TOKENIZER.eos_token_id == 256


def test_the_hash_survives_padding_and_tells_tokenizers_apart() -> None:
    other = byte_tokenizer()
    name = tokenizer_hash(other)
    assert name == tokenizer_hash(TOKENIZER)
    other(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert other.backend_tokenizer.truncation is not None or other.backend_tokenizer.padding is not None
    assert tokenizer_hash(other) == name
    other.add_tokens(["<new>"])
    assert tokenizer_hash(other) != name


@pytest.mark.parametrize(("packing", "shown"), [("packed", "hey<|endoftext|>you<|endoftext|>"), ("document", "hey")])
def test_a_window_decodes_without_its_padding(make_store, packing, shown) -> None:
    store = make_store([list(b"hey"), list(b"you")])
    windows = Windows(store, "all", context_length=9, packing=packing, separator_id=256)
    assert decode_window(TOKENIZER, windows.batch([0]), 0) == shown

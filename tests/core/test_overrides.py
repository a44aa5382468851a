"""Any text on the command line is that text, and nothing of Hydra's grammar."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sae_lightning import command
from sae_lightning.core.overrides import with_quoted_texts

# What an argument of a process can hold, without what no text has.
TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=20)


def composed(text: str) -> object:
    (argument,) = with_quoted_texts([f"prompt={text}"], ["prompt"])
    return command.plain(command.compose("search", ["sae=run", argument]))["prompt"]


@settings(max_examples=60, deadline=None)
@given(st.one_of(TEXTS, st.text(r"""\$"'{}[](),=: ab#""", min_size=1, max_size=8)))
@example("it's")
@example("Well, the (river)")
@example("${x} \\${y} \\\\${z}")
@example('say "so\\')
@example("\\")
@example("1984")
@example("true")
@example(" with spaces ")
@example("a=b")
@example("two\nlines")
@example("a\\\n")
@example('"a" and "b"')
def test_any_text_arrives_as_it_is(text: str) -> None:
    if text == "null" or re.fullmatch(r"""'(\\.|[^'])*'|"(\\.|[^"])*\"""", text, re.DOTALL):
        return  # the user's own quotes
    assert composed(text) == text


@pytest.mark.parametrize(
    ("text", "value"), [('"in, quotes"', "in, quotes"), ("'1984'", "1984"), ("null", None), ("", "")]
)
def test_quotes_of_ones_own_stay(text: str, value: object) -> None:
    assert composed(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('["a","b, c"]', ["a", "b, c"]),
        ("[ 'it''s' ]", "[ 'it''s' ]"),
        (r"""['say "so"' , "a\"b"]""", ['say "so"', 'a"b']),
        ("[a,b]", "[a,b]"),
        ('["a"], ["b"]', '["a"], ["b"]'),
        ("[]", "[]"),
    ],
)
def test_where_lists_are_taken_a_list_of_texts_in_quotes_is_one(text: str, value: object) -> None:
    (argument,) = with_quoted_texts([f"prompt={text}"], ["prompt"], lists=True)
    assert command.plain(command.compose("steer", ["sae=run", argument]))["prompt"] == value
    assert with_quoted_texts(["prompt=" + text], ["prompt"]) != ["prompt=" + text]


def test_a_text_of_many_backslashes_takes_no_time() -> None:
    text = '"' + "\\" * 200 + "x"  # a pattern that tries every way of pairing them never ends
    assert composed(text) == text


def test_other_settings_stay() -> None:
    arguments = ["n=5", "-m", "all=[a,b]", "prompts=a,b", "prompt", "+want=a,b"]
    assert with_quoted_texts(arguments, ["prompt", "want"]) == [*arguments[:-1], '+want="a,b"']

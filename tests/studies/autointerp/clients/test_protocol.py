"""What an answer says, read from what endpoints and models write."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lightning.core import UserError
from sae_lightning.studies.autointerp.clients.budget import Budget
from sae_lightning.studies.autointerp.clients.client import SAID, Request
from sae_lightning.studies.autointerp.clients.pace import retry_after
from sae_lightning.studies.autointerp.clients.protocol import choice_in, clean, read_reply

YES_NO = ("yes", "no")
GRADES = ("0", "1", "2", "3", "10")


@pytest.mark.parametrize(
    ("text", "choices", "said"),
    [
        ("yes", YES_NO, "yes"),
        ("**No.**", YES_NO, "no"),
        ('"Yes", it does. No doubt.', YES_NO, "yes"),
        ("Answer: YES", YES_NO, "yes"),
        ("The answer is no", YES_NO, "no"),
        ("Yes or no", YES_NO, None),
        ("yes/no", YES_NO, None),
        ("Yes | No", YES_NO, None),
        ("Yes or perhaps", YES_NO, "yes"),
        ("nothing", YES_NO, None),
        ("no-one", YES_NO, None),
        ("yesterday", YES_NO, None),
        ("I think yes", YES_NO, None),
        ("", YES_NO, None),
        ("10", GRADES, "10"),
        ("1", GRADES, "1"),
        ("1.5", GRADES, None),
        ("1.", GRADES, "1"),
        ("0-3", GRADES, None),
        ("3/3", GRADES, None),
        ("Grade: 2\nbecause", GRADES, "2"),
        ("Score 12", GRADES, None),
        ("names of animals", ("names", "names of animals"), "names of animals"),
        ("Ja", ("ja", "nein"), "ja"),
    ],
)
def test_choices(text: str, choices: tuple[str, ...], said: str | None):
    assert choice_in(text, choices) == said


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_clean_text_can_be_written_and_shown(text: str):
    shown = clean(text)
    assert shown == clean(shown)
    shown.encode("utf-8")
    assert all(c in "\u200c\u200d" or c.isprintable() or c.isspace() for c in shown)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["choices", "message", "content", "usage", "prompt_tokens", "logprobs", "token"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(json_values, json_values, json_values, json_values)
@settings(max_examples=300, deadline=None)
def test_no_json_is_too_odd(whole: Any, choice: Any, content: Any, logprobs: Any):
    message = {"content": content}
    bodies = [
        whole,
        {"choices": [choice], "usage": whole},
        {
            "choices": [{"message": message, "logprobs": logprobs, "finish_reason": choice}],
            "usage": choice,
        },
        {"choices": [{"message": {"content": "yes"}, "logprobs": {"content": [{"top_logprobs": [logprobs, choice]}]}}]},
    ]
    for body in bodies:
        for request in (Request((("user", "x"),), 5), Request((("user", "x"),), 5, YES_NO)):
            reply = read_reply(json.dumps(body).encode(), request)
            assert (reply.text is None) == (reply.problem is not None)
            assert reply.problem in {None, "malformed", "empty", *SAID}
            if request.choices and reply.text is not None:
                assert reply.text in request.choices
            if reply.probabilities is not None:
                assert math.isclose(sum(reply.probabilities.values()), 1)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_no_bytes_are_too_odd(data: bytes):
    assert read_reply(data, Request((("user", "x"),), 5)).problem in {"malformed", "empty"}


def test_thoughts_are_left_out():
    def reply(text: str, ended: str = "stop") -> Any:
        body = {"choices": [{"message": {"content": text}, "finish_reason": ended}]}
        return read_reply(json.dumps(body).encode(), Request((("user", "x"),), 5, YES_NO))

    assert reply("<think>no? no!</think>\n\nYes").text == "yes"
    assert reply("<think>no? no!", "length").problem == "cut off"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("3", 3.0), ("0.5", 0.5), ("-4", 0.0), ("soon", None), ("nan", None), ("", None),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("inf", math.inf)],
)  # fmt: skip
def test_retry_after(header: str | None, seconds: float | None):
    assert retry_after(header) == seconds


def test_a_budget_waits_for_what_is_on_its_way_and_is_not_passed():
    request = Request((("user", "x" * 400),), 100)
    budget = Budget(1e4, 1e4, 5.0)
    dearest = budget.dearest(request)
    assert dearest == pytest.approx((100 + 8 + 100) * 1e4 / 1e6)
    budget.reserve(request)
    budget.reserve(request)
    assert budget.waits(request)  # two at 2.08 and a third pass 5, one alone does not
    with pytest.raises(UserError, match="could pass it"):
        budget.reserve(request)
    budget.settle(request, 108, 1)
    budget.settle(request, 108, 1)
    assert budget.spent == pytest.approx(2.18)
    assert not budget.waits(request)
    budget.reserve(request)
    budget.settle(request, 108, 100)
    assert not budget.waits(request)
    with pytest.raises(UserError, match="could pass it"):
        budget.reserve(request)
    free = Budget(None, None, None)
    free.reserve(request)
    free.settle(request, 1, 1)
    assert free.spent is None

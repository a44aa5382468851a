"""The OpenAI protocol of chat completions: a request as its JSON, and what came back read strictly."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_lightning.studies.autointerp.clients.client import Request

# Bytes that one token stands for, where nobody counted.
_BYTES_PER_TOKEN = 4
# An endpoint that ignores the token limit this far has not understood the request.
_CHARACTERS_PER_TOKEN, _CHARACTERS_MORE = 40, 2000
_MOST_TOKENS = 2**40
_SEEDS = 2**31
# No control characters to a reader: they join or part letters in many scripts.
_SHAPING = "\u200c\u200d"
_LEAST_LOGPROB = -700
_LEAD = re.compile(r"\A(the )?(answer|choice|grade|rating|score)( is)?\b[\s:*]*")
_WHOLE = re.compile(r"(?!\w|[.,/]\d|['’-]\w)")
_OR = re.compile(r"\W*?(/|\||\bor\b)")
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True)
class Reply:
    """An answer as the endpoint gave it; tokens are None where it did not count them."""

    text: str | None
    problem: str | None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    probabilities: Mapping[str, float] | None = None


_MALFORMED = Reply(None, "malformed")


def body_of(request: Request, model: str, limit_key: str, logprobs: bool, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of a request. options: more keys, or other values; null takes a key out."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": role, "content": content} for role, content in request.messages],
        limit_key: request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed % _SEEDS,
        "stream": False,
    }
    if logprobs and request.choices:
        body |= {"logprobs": True, "top_logprobs": 20}
    return {key: value for key, value in (body | dict(options)).items() if value is not None}


def read_reply(data: bytes, request: Request) -> Reply:
    """Return what an endpoint's answer says; whatever is not as the protocol has it is ``malformed``.

    The text loses what a reasoning model thinks aloud first (<think>...</think>), control characters and what is no
    Unicode.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _MALFORMED
    choice = _first(value)
    message = choice.get("message") if choice is not None else None
    if choice is None or not isinstance(message, dict):
        return _MALFORMED
    content, refusal, ended = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    prompt, completion = _tokens(value, "prompt_tokens"), _tokens(value, "completion_tokens")
    if ended == "content_filter" or (isinstance(refusal, str) and refusal):
        return Reply(None, "refused", prompt, completion)
    if content is None:
        content = ""
    if not isinstance(content, str) or len(content) > _CHARACTERS_PER_TOKEN * request.max_tokens + _CHARACTERS_MORE:
        return Reply(None, "malformed", prompt, completion)
    text = clean(_THOUGHTS.sub("", content))
    if not text or text.startswith("<think>"):
        return Reply(None, "cut off" if ended == "length" else "empty", prompt, completion)
    if not request.choices:
        return Reply(text, None, prompt, completion)
    said = choice_in(text, request.choices)
    chances = _chances(choice.get("logprobs"), request.choices)
    return Reply(said, None if said is not None else "no choice", prompt, completion, chances)


def clean(text: str) -> str:
    """Return text without control characters and lone surrogates, and without white space around it."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c for c in whole if c in _SHAPING or c.isprintable() or c.isspace()).strip()


def choice_in(text: str, choices: Sequence[str]) -> str | None:
    """Return the choice that an answer begins with, as in ``**Yes**, because``; None where it begins with none.

    Case, quotation marks, markup and a leading ``Answer:`` do not matter. What follows the choice must not be more of
    the same word or number (1 is not in 10, nor in 1.5), nor another choice (yes or no). Of several that fit, the
    longest is taken.
    """
    start = _bare(_LEAD.sub("", _bare(text)))
    if (choice := _leading(start, choices)) is None:
        return None
    more = _OR.match(start, len(choice.casefold()))
    others = [other for other in choices if other != choice]
    return None if more and _leading(_bare(start[more.end() :]), others) is not None else choice


def tokens_in(text: str) -> int:
    """Return about how many tokens a text is, where nobody counted them."""
    return math.ceil(len(text.encode("utf-8", "replace")) / _BYTES_PER_TOKEN)


def _leading(text: str, choices: Sequence[str]) -> str | None:
    for choice in sorted(choices, key=len, reverse=True):
        word = choice.casefold()
        if text.startswith(word) and _WHOLE.match(text[len(word) :]):
            return choice
    return None


def _bare(text: str) -> str:
    return text.casefold().lstrip(" \t\n\r*_`\"'“”‘’([{<#>:-")


def _first(value: Any) -> dict[str, Any] | None:
    choices = value.get("choices") if isinstance(value, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None


def _tokens(value: Any, name: str) -> int | None:
    usage = value.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and 0 <= count < _MOST_TOKENS else None


def _chances(logprobs: Any, choices: Sequence[str]) -> Mapping[str, float] | None:
    """Return probabilities of the choices from the likeliest first tokens, None where they do not say.

    A token counts for the choice that it begins, where it begins just one.
    """
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    first = tokens[0] if isinstance(tokens, list) and tokens else None
    likeliest = first.get("top_logprobs") if isinstance(first, dict) else None
    if not isinstance(likeliest, list):
        return None
    sums = dict.fromkeys(choices, 0.0)
    for one in likeliest[:100]:
        token, logprob = (one.get("token"), one.get("logprob")) if isinstance(one, dict) else (None, None)
        if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
            return None
        word = token.strip().casefold()
        fits = [choice for choice in choices if word and choice.casefold().startswith(word)]
        if len(fits) == 1 and logprob <= 0:
            sums[fits[0]] += math.exp(max(logprob, _LEAST_LOGPROB))
    total = sum(sums.values())
    return {choice: mass / total for choice, mass in sums.items()} if total > 0 else None

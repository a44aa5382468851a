"""A client of any endpoint that speaks the OpenAI protocol: a service, or vLLM, llama.cpp, Ollama on a machine."""

import json
import queue
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from sae_lightning.core import UserError
from sae_lightning.core.progress import progress
from sae_lightning.studies.autointerp.clients.budget import Budget
from sae_lightning.studies.autointerp.clients.client import Answer, Request, Usage, in_order
from sae_lightning.studies.autointerp.clients.endpoint import Endpoint
from sae_lightning.studies.autointerp.clients.posting import Posting, Settings
from sae_lightning.studies.autointerp.clients.tally import Tally

_OWN_KEYS = ("model", "messages", "stream", "n")
_LIMIT_KEYS = ("max_tokens", "max_completion_tokens")


class OpenAIClient:
    """Asks ``base_url``/chat/completions.

    base_url: up to and with the version, such as https://api.openai.com/v1. model: as the endpoint names it.
    key_env: environment variable that holds the key; null: none is sent. The key is kept nowhere else.
    timeout: seconds a request may take in all. retries: of a request that failed for a reason that may pass (429, 5xx,
    a timeout, a broken connection, an answer that is none), after rests that double from ``first_rest`` seconds or
    last as long as the endpoint asks. requests_per_minute: null for as many as come back. parallel: on their way at
    once. price_in, price_out: per million tokens. max_cost: of what is asked from now on; it is not passed by what the
    endpoint counts, prompts on their way taken at four bytes a token.
    limit_key: what the endpoint calls the token limit. logprobs: ask for probabilities of choices, too.
    options: more of the request's JSON, such as {top_p: 0.9} or {temperature: null}, which leaves that key out. A model
    that thinks aloud needs a limit of its own there, {max_tokens: 2000}: questions with choices leave room for a word.

    Raises UserError: addresses, keys and prices that ``Endpoint`` and ``Budget`` refuse; options of the client's own.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_env: str | None = "OPENAI_API_KEY",
        timeout: Annotated[float, Gt(0)] = 60.0,
        retries: Annotated[int, Ge(0), Le(20)] = 6,
        first_rest: Annotated[float, Gt(0)] = 1.0,
        requests_per_minute: Annotated[float, Gt(0)] | None = None,
        parallel: Annotated[int, Ge(1), Le(256)] = 8,
        price_in: Annotated[float, Ge(0)] | None = None,
        price_out: Annotated[float, Ge(0)] | None = None,
        max_cost: Annotated[float, Gt(0)] | None = None,
        limit_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        logprobs: bool = False,
        options: Mapping[str, Any] | None = None,
        show_progress: bool = True,
    ) -> None:
        self._endpoint = Endpoint(base_url, key_env)
        if not model.strip():
            raise UserError("client.model='': must name a model that the endpoint has; set client.model=...")
        options = dict(options or {})
        for name in _OWN_KEYS:
            if name in options:
                raise UserError(f"client.options.{name}: is set by the client itself; leave it out")
        try:
            json.dumps(options, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(f"client.options: must be plain JSON ({error}); mend it") from None
        self._model, self._show = model, show_progress
        self._settings = Settings(
            model, timeout, retries, first_rest, requests_per_minute, parallel, limit_key, logprobs, options
        )
        self._budget = Budget(price_in, price_out, max_cost)
        self._tally = Tally()

    @property
    def name(self) -> str:
        """Model and address."""
        return f"{self._model} at {self._endpoint.place}"

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides the answers besides the request."""
        settings = self._settings
        return {
            "client": "openai",
            "base_url": self._endpoint.place,
            "model": self._model,
            "logprobs": settings.logprobs,
            "options": dict(settings.options),
        }

    @property
    def usage(self) -> Usage:
        """What has been asked so far."""
        return self._tally.usage(self._budget.spent)

    def ask(self, requests: Sequence[Request], what: str = "asking") -> list[Answer]:
        """Return the answers in the order of the requests; see ``Client.ask``."""
        return in_order(self, requests, what)

    def answers(self, requests: Sequence[Request], what: str = "asking") -> Iterator[tuple[int, Answer]]:
        """Yield (place, answer) as they come.

        Raises UserError as ``Client.ask`` does, after the answers of all that was on its way.
        """
        if not requests:
            return
        arriving: queue.SimpleQueue[tuple[int, Answer] | BaseException | None] = queue.SimpleQueue()
        self._tally.requests += len(requests)
        sent = [self._as_sent(request) for request in requests]
        posting = Posting(self._endpoint, self._settings, self._budget, self._tally, sent, arriving.put)
        start = time.monotonic()
        posting.start()
        try:
            with progress(what, len(requests), self._show) as advance:
                while (arrived := arriving.get()) is not None:
                    if isinstance(arrived, BaseException):
                        raise arrived
                    self._tally.count(arrived[1])
                    yield arrived
                    advance(1, self._note())
        finally:
            posting.stop()
            self._tally.seconds += time.monotonic() - start

    def _as_sent(self, request: Request) -> Request:
        """Return the request with the token limit of ``options``, where they have one."""
        limits = [limit for key in _LIMIT_KEYS if type(limit := self._settings.options.get(key)) is int]
        return replace(request, max_tokens=max(limits)) if limits else request

    def _note(self) -> str:
        usage = self.usage
        cost = f", cost {usage.cost:.3g}" if usage.cost is not None else ""
        bad = sum(usage.faults.values())
        return f"{usage.prompt_tokens + usage.completion_tokens:,} tokens{cost}" + (f", {bad:,} faults" if bad else "")

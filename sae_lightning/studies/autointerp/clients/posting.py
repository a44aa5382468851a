"""Posts requests in parallel from a thread of its own, with retries, and hands each answer over as it comes."""

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sae_lightning.core import UserError
from sae_lightning.studies.autointerp.clients.budget import Budget
from sae_lightning.studies.autointerp.clients.client import Answer, Request
from sae_lightning.studies.autointerp.clients.endpoint import Endpoint
from sae_lightning.studies.autointerp.clients.pace import Pace, retry_after
from sae_lightning.studies.autointerp.clients.protocol import body_of, clean, read_reply, tokens_in
from sae_lightning.studies.autointerp.clients.tally import Tally

if TYPE_CHECKING:
    import httpx2

_MOST_BYTES = 4 << 20
_MOST_ERROR_BYTES = 1 << 16
# Statuses that may pass; those of 500 and more pass, too.
_PASSING = (408, 409, 425, 429)
# Requests refused before any was answered, and requests lost in a row, that show that it is not the request.
_REFUSED, _LOST = 3, 20
_SEE = 0.02
_KEPT = "what was answered is kept: start again to go on"


@dataclass(frozen=True)
class Settings:
    """How ``OpenAIClient`` posts; see there."""

    model: str
    timeout: float
    retries: int
    first_rest: float
    requests_per_minute: float | None
    parallel: int
    limit_key: str
    logprobs: bool
    options: Mapping[str, Any]


class _FaultError(Exception):
    """An attempt that gave no answer. passes: another may; rest: seconds that the endpoint asks for; said: by it."""

    def __init__(self, kind: str, *, passes: bool, rest: float | None = None, said: str = "") -> None:
        super().__init__(kind)
        self.kind, self.passes, self.rest, self.said = kind, passes, rest, said


class Posting:
    """One round of requests. hand_over: takes (place, answer), then the error that ended the round or None.

    After a mistake that the user must mend nothing new goes out; what is on its way is waited for and handed over,
    because it is paid for.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: Settings,
        budget: Budget,
        tally: Tally,
        requests: Sequence[Request],
        hand_over: Callable[[tuple[int, Answer] | BaseException | None], None],
    ) -> None:
        self._endpoint, self._settings, self._budget, self._tally = endpoint, settings, budget, tally
        self._requests, self._hand_over = requests, hand_over
        self._pace = Pace(settings.requests_per_minute, settings.first_rest)
        self._places: Iterator[int] = iter(range(len(requests)))
        self._mistake: UserError | None = None
        self._heard = self._answered = False  # a response of any kind came; one with an answer
        self._refused = self._lost = 0
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="asking an endpoint", daemon=True)

    def start(self) -> None:
        """Start posting."""
        self._task = self._loop.create_task(self._post_all())
        self._thread.start()

    def stop(self) -> None:
        """Break off what is on its way and wait until that is done; after the end of the round it does nothing."""
        if self._task is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it ended by itself in this moment
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        assert self._task is not None
        end: BaseException | None = None
        try:
            self._loop.run_until_complete(self._task)
            end = self._mistake
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            end = error
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            self._hand_over(end)

    async def _post_all(self) -> None:
        import httpx2

        for name in ("httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        parallel = min(self._settings.parallel, len(self._requests))
        local = self._endpoint.is_local
        async with (
            httpx2.AsyncClient(
                headers=self._endpoint.headers(),
                timeout=self._settings.timeout,
                limits=httpx2.Limits(max_connections=parallel),
                trust_env=not local,  # no proxy between this machine and itself
            ) as http,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(parallel):
                group.create_task(self._work(http))

    async def _work(self, http: "httpx2.AsyncClient") -> None:
        for place in self._places:
            try:
                answer = await self._answer(http, self._requests[place])
            except UserError as mistake:
                self._mistake = self._mistake or mistake
            else:
                if answer is not None:
                    self._hand_over((place, answer))
            if self._mistake is not None:
                return

    async def _answer(self, http: "httpx2.AsyncClient", request: Request) -> Answer | None:
        """Return the answer of a request, None when the round ended before it had one."""
        for attempt in range(self._settings.retries + 1):
            await self._pace.turn()
            if self._mistake is not None:
                return None
            try:
                answer = await self._attempt(http, request)
            except _FaultError as fault:
                self._tally.faults[fault.kind] += 1
                if not fault.passes or attempt == self._settings.retries:
                    return self._give_up(fault)
                self._tally.retries += 1
                await self._pace.rest(attempt, fault.rest)
            else:
                self._answered, self._lost = True, 0
                return answer
        raise AssertionError("the last attempt returns")

    def _give_up(self, fault: _FaultError) -> Answer:
        """Return the answer of a request that got none. Raises UserError where no other would get one, either."""
        place = self._endpoint.place
        if fault.passes:
            self._lost += 1
            if self._lost >= _LOST:
                raise UserError(
                    f"client.base_url={place}: the last {self._lost} requests got no answer ({fault.kind}); see to "
                    f"the endpoint; {_KEPT}"
                )
        elif not self._answered:
            self._refused += 1
            if self._refused >= min(_REFUSED, len(self._requests)):
                raise UserError(
                    f"client.base_url={place}: every request was refused ({fault.kind}{_quoted(fault.said)}); mend "
                    "client.model, client.limit_key or client.options"
                )
        return Answer(None, fault.kind)

    async def _attempt(self, http: "httpx2.AsyncClient", request: Request) -> Answer:
        """Post once. Raises _FaultError for what gave no answer, UserError for what the user must mend."""
        import httpx2

        settings = self._settings
        body = body_of(request, settings.model, settings.limit_key, settings.logprobs, settings.options)
        while self._budget.waits(request):
            await asyncio.sleep(_SEE)
        self._budget.reserve(request)
        prompt = completion = 0
        try:
            async with (
                asyncio.timeout(settings.timeout),
                http.stream("POST", self._endpoint.url, content=json.dumps(body).encode()) as response,
            ):
                self._heard = True
                data = await _bounded(response, _MOST_BYTES if response.status_code == 200 else _MOST_ERROR_BYTES)
            if response.status_code != 200:
                self._refuse(response.status_code, data or b"", response.headers.get("Retry-After"))
            if data is None:
                raise _FaultError("malformed", passes=True)
            reply = read_reply(data.decode("utf-8", "replace").encode(), request)
            prompt, completion = reply.prompt_tokens or 0, reply.completion_tokens or 0
            if reply.problem == "malformed":
                raise _FaultError("malformed", passes=True)
            if reply.prompt_tokens is None or reply.completion_tokens is None:
                self._tally.estimated += 1
                prompt = sum(tokens_in(content) for _, content in request.messages)
                completion = tokens_in(reply.text or "")
            text = None if reply.text is None else self._endpoint.without_key(reply.text)
            return Answer(text, reply.problem, prompt, completion, reply.probabilities)
        except (TimeoutError, httpx2.TimeoutException) as error:
            if isinstance(error, httpx2.ConnectTimeout):
                self._unreachable("no connection in time")
            raise _FaultError("timeout", passes=True) from None
        except httpx2.ConnectError as error:
            self._unreachable(str(error))
            raise _FaultError("disconnected", passes=True) from None
        except httpx2.InvalidURL as error:
            self._unreachable(str(error))
            raise
        except httpx2.HTTPError:
            raise _FaultError("disconnected", passes=True) from None
        finally:
            self._budget.settle(request, prompt, completion)

    def _unreachable(self, why: str) -> None:
        if not self._heard:
            raise UserError(
                f"client.base_url={self._endpoint.place}: can't be reached ({clean(why)[:200]}); start the endpoint or "
                "mend the address"
            ) from None

    def _refuse(self, status: int, data: bytes, rest: str | None) -> None:
        """Raise what a status other than 200 means."""
        place, said = self._endpoint.place, self._said(data)
        # What the endpoint says of a key is not repeated: some say the key itself.
        if status in (401, 403):
            raise UserError(
                f"client.base_url={place}: refused the key (http {status}); mend the one in "
                f"{self._endpoint.key_env or 'the variable that client.key_env names'}; {_KEPT}"
            )
        if status == 404:
            raise UserError(
                f"client.model={self._settings.model!r}: {place} has no such model or no chat at this address (http "
                f"404{_quoted(said)}); mend client.model or client.base_url"
            )
        if status == 402 or (status == 429 and b"insufficient_quota" in data):
            raise UserError(f"client.base_url={place}: what was paid for is used up (http {status}); {_KEPT}")
        passes = status in _PASSING or status >= 500
        raise _FaultError(f"http {status}", passes=passes, rest=retry_after(rest) if passes else None, said=said)

    def _said(self, data: bytes) -> str:
        """Return the message of an error body, without the key, short enough for a line."""
        try:
            value = json.loads(data)
            message = value["error"]["message"]
        except (ValueError, RecursionError, LookupError, TypeError):
            return ""
        return clean(self._endpoint.without_key(message))[:200] if isinstance(message, str) else ""


def _quoted(said: str) -> str:
    return f": {said!r}" if said else ""


async def _bounded(response: "httpx2.Response", most: int) -> bytes | None:
    """Return the body, None where it is larger than ``most`` bytes or packed, which was not asked for."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    data = bytearray()
    async for piece in response.aiter_raw():
        data += piece
        if len(data) > most:
            return None
    return bytes(data)

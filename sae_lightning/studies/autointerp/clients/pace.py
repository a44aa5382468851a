"""When the next request may go out: a rate, and rests after a fault that grow and that an endpoint may set."""

import asyncio
import email.utils
import random
import time

_LONGEST_REST = 120.0


class Pace:
    """Spaces requests evenly at ``per_minute`` (None: as they come) and doubles the rest after each failed attempt.

    first_rest: seconds after the first fault; each rest is shortened by a random part of up to a half, so that those
    who failed together do not come again together. A rest that the endpoint asks for (Retry-After) is kept by all.
    """

    def __init__(self, per_minute: float | None, first_rest: float) -> None:
        self._gap = 60.0 / per_minute if per_minute is not None else 0.0
        self._first_rest = first_rest
        self._next = 0.0
        self._closed_until = 0.0
        # Of the clock's making: no result depends on it, and two processes must not rest alike.
        self._random = random.Random(time.time_ns())

    async def turn(self) -> None:
        """Wait until the next request may go out."""
        while True:
            now = time.monotonic()
            slot = max(now, self._next)
            if now >= self._closed_until:
                self._next = slot + self._gap
                await asyncio.sleep(slot - now)
                if time.monotonic() >= self._closed_until:
                    return
            else:
                await asyncio.sleep(self._closed_until - now)

    async def rest(self, attempt: int, asked: float | None) -> None:
        """Rest after the ``attempt``-th fault of a request (from 0). asked: seconds that the endpoint asks for."""
        if asked is not None:
            wait = min(asked, _LONGEST_REST)
            self._closed_until = max(self._closed_until, time.monotonic() + wait)
        else:
            wait = min(self._first_rest * 2.0 ** min(attempt, 20), _LONGEST_REST) * self._random.uniform(0.5, 1.0)
        await asyncio.sleep(wait)


def retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for (a number or a date), None where it says nothing."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None

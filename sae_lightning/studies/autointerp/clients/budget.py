"""What requests cost, and the limit that is not passed."""

from sae_lightning.core import UserError
from sae_lightning.studies.autointerp.clients.client import Request
from sae_lightning.studies.autointerp.clients.protocol import tokens_in

_PER = 1e6
# Tokens that a chat's format adds to each message.
_PER_MESSAGE = 8


class Budget:
    """Adds up tokens at ``price_in`` and ``price_out`` (per million) and says when ``max_cost`` would be passed.

    What is on its way counts at its dearest (as many tokens as it may answer), so the limit holds with requests in
    parallel. Raises UserError: a limit without prices.
    """

    def __init__(self, price_in: float | None, price_out: float | None, max_cost: float | None) -> None:
        if (price_in is None) != (price_out is None):
            raise UserError(
                f"client.price_in={price_in}, client.price_out={price_out}: must be given both or neither; set both, "
                "per million tokens"
            )
        if max_cost is not None and price_in is None:
            raise UserError(
                f"client.max_cost={max_cost}: needs prices to be worked out; set client.price_in and client.price_out "
                "per million tokens"
            )
        self._prices = None if price_in is None or price_out is None else (price_in, price_out)
        self._max_cost = max_cost
        self._spent = 0.0
        self._on_its_way = 0.0
        self._n_on_their_way = 0

    @property
    def spent(self) -> float | None:
        """Cost so far, None without prices."""
        return self._spent if self._prices is not None else None

    def dearest(self, request: Request) -> float:
        """Return what a request costs at most, its prompt estimated."""
        prompt = sum(tokens_in(content) + _PER_MESSAGE for _, content in request.messages)
        return self._cost(prompt, request.max_tokens)

    def waits(self, request: Request) -> bool:
        """Whether a request would only pass the limit if what is on its way came to its dearest: wait and see."""
        if self._max_cost is None or not self._n_on_their_way:
            return False
        alone = self._spent + self.dearest(request)
        return alone <= self._max_cost < alone + self._on_its_way

    def reserve(self, request: Request) -> None:
        """Count a request that goes out. Raises UserError when it could pass the limit: it must not go out."""
        dearest = self.dearest(request)
        if self._max_cost is not None and self._spent + self._on_its_way + dearest > self._max_cost:
            raise UserError(
                f"client.max_cost={self._max_cost:g}: the next request could pass it ({self._spent:.4g} is spent); "
                "what was answered is kept: start again to go on, or raise the limit"
            )
        self._on_its_way += dearest
        self._n_on_their_way += 1

    def settle(self, request: Request, prompt_tokens: int, completion_tokens: int) -> None:
        """Count what a request that went out took in truth."""
        self._n_on_their_way -= 1
        # Rounding adds up to nothing: without requests on their way nothing is.
        self._on_its_way = self._on_its_way - self.dearest(request) if self._n_on_their_way else 0.0
        self._spent += self._cost(prompt_tokens, completion_tokens)

    def _cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        if self._prices is None:
            return 0.0
        return (prompt_tokens * self._prices[0] + completion_tokens * self._prices[1]) / _PER

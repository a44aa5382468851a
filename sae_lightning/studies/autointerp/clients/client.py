"""What is asked of a chat model, what comes back, and who can be asked."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

#: Problems that are the model's own word: asked again it would say the same, so they are kept like an answer.
SAID = frozenset({"refused", "no choice", "cut off", "too long"})


@dataclass(frozen=True)
class Request:
    """One question to a chat model.

    messages: (role, content), role one of system, user, assistant; the last one is not the assistant's. Content is
    text and nothing else: control tokens written in it end no turn. max_tokens: of the answer. choices: the answer
    must be one of these, all different and none of them empty; (): any text. temperature: 0 takes the likeliest token
    each time. seed: of sampling.
    """

    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    choices: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return everything that decides the answer."""
        return {
            "messages": [list(message) for message in self.messages],
            "max_tokens": self.max_tokens,
            "choices": list(self.choices),
            "temperature": self.temperature,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Answer:
    """What came back: a text, or the problem why there is none.

    text: without surrounding white space; one of the request's choices, spelt as there, where it has some. None with
    a problem, and only then.
    problem: None, or one of

    - ``refused``: the model or its filter would not answer; ``no choice``: it said none of the choices;
      ``cut off``: the token limit came before any text; ``too long``: the prompt does not fit the model's context;
    - ``empty``: an answer without text; ``malformed``: no answer as the protocol has it, or an oversized one;
    - ``timeout``; ``disconnected``: the connection failed or broke; ``http 500`` and the like.

    prompt_tokens, completion_tokens: as counted by who answered (estimated where an endpoint does not say).
    probabilities: of the choices, adding up to 1, where the client knows them. kept: it was not asked now.
    """

    text: str | None
    problem: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    probabilities: Mapping[str, float] | None = None
    kept: bool = False


@dataclass(frozen=True)
class Usage:
    """What was asked so far, and what it took.

    requests: asked for; answered: of them with a text; kept: of them not asked now, because the answer was there.
    retries: attempts beyond the first. faults: what went wrong with any attempt, by kind; problems: of those that
    remained. Tokens and cost are of what was asked now; cost: in the currency of the prices, None where no price is
    known. estimated: answers whose tokens nobody counted, estimated at four bytes a token. seconds: spent waiting.
    """

    requests: int = 0
    answered: int = 0
    kept: int = 0
    retries: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0
    cost: float | None = None
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return plain numbers by name."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain | {"faults": dict(sorted(self.faults.items())), "problems": dict(sorted(self.problems.items()))}

    def __str__(self) -> str:
        parts = [f"{self.requests:,} requests, {self.answered:,} answered"]
        if self.kept:
            parts.append(f"{self.kept:,} of them kept from before")
        parts.append(f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens in {self.seconds:.0f} s")
        if self.cost is not None:
            parts.append(f"cost {self.cost:.4f}")
        if self.retries:
            parts.append(f"{self.retries:,} retries")
        for name, counts in (("faults", self.faults), ("without an answer", self.problems)):
            if counts:
                parts.append(f"{name}: " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items())))
        return "; ".join(parts)


class Client(Protocol):
    """Answers requests."""

    @property
    def name(self) -> str:
        """Who answers, for reports; never a key."""
        ...

    @property
    def usage(self) -> Usage:
        """What has been asked of this client so far."""
        ...

    def ask(self, requests: Sequence[Request], what: str = "asking") -> list[Answer]:
        """Return the answers in the order of the requests. what: said by the progress bar.

        A bad answer is an answer with a problem. Raises UserError for what the user must mend: an endpoint that is
        not there, a key that is missing or refused, an unknown model, a budget that is spent.
        """
        ...


class Answering(Client, Protocol):
    """A client whose answers can be taken as they come, so that each is kept before the next."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides its answers besides the request, as plain JSON; never a key."""
        ...

    def answers(self, requests: Sequence[Request], what: str = "asking") -> Iterator[tuple[int, Answer]]:
        """Yield (place in ``requests``, answer) of each request once, in any order."""
        ...


def in_order(client: Answering, requests: Sequence[Request], what: str) -> list[Answer]:
    """Return all of a client's answers in the order of the requests."""
    came = dict(client.answers(requests, what))
    return [came[place] for place in range(len(requests))]

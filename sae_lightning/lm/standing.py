"""Edits that stand: while they do, every run of a language model is made with them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from sae_lightning.lm.run import Edit, Ran, Request

if TYPE_CHECKING:
    from sae_lightning.lm.frozen_lm import FrozenLM


@dataclass(frozen=True)
class Place:
    """What a run is given: tokens [b, m], of which the first is number ``first`` of its window.

    prompt: how many of the window's first tokens are given; those after are generated. None: all are given.
    before: how many of the window's first tokens are no text (a start that was put before it).
    """

    tokens: Int[Tensor, "b m"]
    first: int = 0
    prompt: int | None = None
    before: int = 0


class Rewrites(Protocol):
    """Something that says for every run what to write where.

    reads: the sites whose activation it has to know from a run without it, made first; none where it finds in the run
    itself what it needs. writes: the sites that it edits, in whatever run.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def edits(self, place: Place, read: Mapping[str, Tensor]) -> Mapping[str, Edit]:
        """Return what to write at each of ``writes`` in one run. read: activations at ``reads`` [b, m, d]."""
        ...


# A value of its own for every thread: what one thread steers, another reads as it is.
_STANDING: ContextVar[tuple[tuple["FrozenLM", Rewrites], ...]] = ContextVar("standing", default=())


@contextmanager
def stand(lm: "FrozenLM", rewrites: Rewrites) -> Iterator[None]:
    """Let ``rewrites`` be part of every run of ``lm`` that this thread makes inside, after those that stand already."""
    own = lm, rewrites
    _STANDING.set((*_STANDING.get(), own))
    try:
        yield
    finally:  # whichever of several is left first
        _STANDING.set(tuple(one for one in _STANDING.get() if one is not own))


def standing(lm: "FrozenLM") -> list[Rewrites]:
    """Return what stands in this thread for ``lm``, the outermost first."""
    return [rewrites for one, rewrites in _STANDING.get() if one is lm]


def run_standing(
    rewrites: Sequence[Rewrites], tokens: Tensor, request: Request, run: Callable[[Tensor, Request], Ran]
) -> Ran:
    """Run ``tokens`` as ``request`` asks, with ``rewrites`` on top: from the tokens on, since what they write there
    is not known of an activation to start at."""
    if not rewrites:
        return run(tokens, request)
    asked = {site: only_where(edit, request.keep) for site, edit in request.edits.items()}

    def reading(_number: int, edits: Mapping[str, Edit], sites: tuple[str, ...]) -> Mapping[str, Tensor]:
        return run(tokens, Request(edits, sites=sites, grad=request.grad)).seen

    edits = together(rewrites, Place(tokens), asked, reading)
    return run(tokens, Request(edits, sites=request.sites, grad=request.grad))


def together(
    rewrites: Sequence[Rewrites],
    place: Place,
    edits: Mapping[str, Edit],
    run: Callable[[int, Mapping[str, Edit], tuple[str, ...]], Mapping[str, Tensor]],
) -> dict[str, Edit]:
    """Return the edits of one run: ``edits``, and then each of ``rewrites`` in turn, which sees what those before made.

    run: (number, edits, sites) -> activations at the sites of the run with these edits, for the number-th of
    ``rewrites`` to read.
    """
    read: list[Mapping[str, Tensor]] = []

    def made(n: int) -> dict[str, Edit]:
        # Asked anew for every run: what an edit notes in one is nothing to another.
        out = dict(edits)
        for one, found in zip(rewrites[:n], read[:n], strict=True):
            out = chained(out, one.edits(place, found))
        return out

    for number, one in enumerate(rewrites):
        # The sites that will be written are written as they are, so that both runs take the same way.
        same = dict.fromkeys(one.writes, _as_it_is)
        read.append(run(number, chained(made(number), same), one.reads) if one.reads else {})
    return made(len(rewrites))


def chained(first: Mapping[str, Edit], then: Mapping[str, Edit]) -> dict[str, Edit]:
    """Return edits that do ``first`` and, to what that gives, ``then``."""
    out = dict(first)
    for site, edit in then.items():
        out[site] = _after(out[site], edit) if site in out else edit
    return out


def only_where(edit: Edit, keep: Tensor | None) -> Edit:
    """Return ``edit`` where ``keep`` [b, p] is True, and what was there before elsewhere."""
    if keep is None:
        return edit

    def kept(value: Tensor) -> Tensor:
        new = applied(edit, value)
        return torch.where(keep.to(value.device)[..., None], new.to(value), value)

    return kept


def applied(edit: Edit, value: Tensor) -> Tensor:
    """Return what ``edit`` makes of ``value`` [b, p, d]."""
    return edit(value) if callable(edit) else edit


def _after(first: Edit, then: Edit) -> Edit:
    return lambda value: applied(then, applied(first, value).to(value))


def _as_it_is(value: Tensor) -> Tensor:
    return value

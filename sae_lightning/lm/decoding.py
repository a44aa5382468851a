"""A language model token by token: the new ones go through it, the earlier ones are remembered."""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.lm.agreement import trial_length, trial_windows
from sae_lightning.lm.bridged import BridgedModel
from sae_lightning.lm.caching import new_cache
from sae_lightning.lm.frozen_lm import FrozenLM
from sae_lightning.lm.pair import PairedLM
from sae_lightning.lm.plain import PlainModel
from sae_lightning.lm.run import Edit, Ran, Request
from sae_lightning.lm.standing import Place, Rewrites, applied, standing, together

logger = logging.getLogger(__name__)

_Fed = tuple[int, int, Mapping[str, Edit]]


class Decoder:
    """A text that grows: ``feed`` gives the next tokens and gets what a run of the whole text shows at them.

    cached: keys and values of earlier tokens are kept, so that only the new tokens are computed. That is done where the
    plain Hugging Face model runs (``lm.reader``) and, tried once, goes on from its cache as it reads the whole text;
    else, and with cached False, the whole text is run anew each time, with what was written at its earlier tokens
    written again. Both give the same logits up to rounding.
    room: how many tokens the text will have at most; None: the language model's context. before: how many of the first
    tokens fed are no text (a start that is put before it). The first tokens fed are the prompt (``standing.Place``).

    Edits that stand in this thread (``lm.standing``) are made in every run, after those of ``feed``.
    Raises UserError for two models side by side and for texts longer than the context.
    """

    def __init__(self, lm: FrozenLM, *, cached: bool = True, room: int | None = None, before: int = 0) -> None:
        if isinstance(lm, PairedLM):
            raise UserError(f"{lm.name}: two language models do not write one text; generate with one of them")
        self.lm, self.cached, self.before = lm, cached, before
        self._room = lm.n_ctx if room is None else min(room, lm.n_ctx)
        self._model: PlainModel | BridgedModel | None = None
        self._tokens: Tensor | None = None
        self._prompt: int | None = None
        # Of the run itself (None), and of those that rewrites read in, by number.
        self._caches: dict[int | None, Any] = {}
        self._fed: list[_Fed] = []

    def __len__(self) -> int:
        """Return how many tokens were fed."""
        return 0 if self._tokens is None else self._tokens.shape[1]

    def feed(
        self, tokens: Int[Tensor, "b m"], edits: Mapping[str, Edit] | None = None, *, sites: Sequence[str] = ()
    ) -> Ran:
        """Go on with ``tokens``; return logits [b, m, vocab] and activations [b, m, d] at ``sites`` of these alone.

        edits: site -> replacement [b, m, d], or a function of the clean activation of the new tokens.
        """
        edits, sites, lm = dict(edits or {}), tuple(dict.fromkeys(sites)), self.lm
        for site in (*edits, *sites):
            lm.check_site(site)
        tokens, first = tokens.to(lm.device), len(self)
        if first + tokens.shape[1] > lm.n_ctx:
            raise UserError(
                f"text of {first + tokens.shape[1]} tokens: {lm.name} reads at most {lm.n_ctx}; give a shorter prompt "
                "or a lower max_tokens"
            )
        rewrites = standing(lm)
        with lm._one_at_a_time:
            if self._model is None:
                self._model = self._chosen(edits, rewrites, sites)
            self._tokens = tokens if self._tokens is None else torch.cat([self._tokens, tokens], dim=1)
            self._prompt = len(self) if self._prompt is None else self._prompt
            lm.windows_read += len(tokens)
            if self.cached:
                assert isinstance(self._model, PlainModel)
                ran = self._go_on(self._model, tokens, first, edits, rewrites, sites)
            else:
                ran = self._anew(self._model, first, edits, rewrites, sites)
        return Ran(ran.logits, {site: value.to(lm.device) for site, value in ran.seen.items()})

    def spread(self, n: int) -> "Decoder":
        """Return a decoder that goes on from the text fed so far, of which there has to be one, in n rows."""
        if self._tokens is None or len(self._tokens) != 1:
            raise ValueError("spread: one text has to be fed before")
        out = copy.copy(self)
        out._tokens, out._fed = self._tokens.expand(n, -1), [(a, b, _spread(edits, n)) for a, b, edits in self._fed]
        out._caches = {}
        for key, cache in self._caches.items():
            out._caches[key] = copy.deepcopy(cache)
            out._caches[key].batch_repeat_interleave(n)
        return out

    def _chosen(
        self, edits: Mapping[str, Edit], rewrites: Sequence[Rewrites], sites: tuple[str, ...]
    ) -> PlainModel | BridgedModel:
        """Return what runs; settles whether a cache is kept."""
        lm, reader = self.lm, self.lm._reader
        written = dict.fromkeys([*edits, *(site for one in rewrites for site in one.writes)])
        read = dict.fromkeys([*sites, *(site for one in rewrites for site in one.reads)])
        like = torch.zeros(1, self._room, dtype=torch.int64, device=lm.device)
        model = reader.way(like, Request(dict.fromkeys(written, _nothing), sites=tuple(read)))
        if self.cached:
            against = "it runs through its bridge"
            if isinstance(model, PlainModel):
                length = trial_length(self._room, model.sliding_window, wide=True)
                against = reader.against_caching(model, trial_windows(length, lm.vocab_size, lm.device))
            if against is not None:
                logger.info("lm %s: decodes without a cache, the whole text for each token: %s", lm.name, against)
                self.cached = False
        return model

    def _go_on(
        self,
        model: PlainModel,
        tokens: Tensor,
        first: int,
        edits: dict[str, Edit],
        rewrites: Sequence[Rewrites],
        sites: tuple[str, ...],
    ) -> Ran:
        def run(which: int | None, edits: Mapping[str, Edit], sites: tuple[str, ...]) -> Ran:
            if missing := [site for site in (*edits, *sites) if not model.has(site)]:
                raise ValueError(f"{missing}: no module has this site; name it when the first tokens are fed")
            if which not in self._caches:
                if first:
                    raise ValueError("edits that stand have to stand from the first tokens on")
                self._caches[which] = new_cache(model.twin)
            return model.run(tokens, Request(edits, sites=sites), self._caches[which])

        place = Place(tokens, first, self._prompt, self.before)
        made = together(rewrites, place, edits, lambda number, edits, sites: run(number, edits, sites).seen)
        return run(None, made, sites)

    def _anew(
        self,
        model: PlainModel | BridgedModel,
        first: int,
        edits: dict[str, Edit],
        rewrites: Sequence[Rewrites],
        sites: tuple[str, ...],
    ) -> Ran:
        assert self._tokens is not None
        tokens = self._tokens
        self._fed.append((first, len(self), edits))

        def run(edits: Mapping[str, Edit], sites: tuple[str, ...]) -> Ran:
            return model.run(tokens, Request(edits, sites=sites))

        place = Place(tokens, 0, self._prompt, self.before)
        made = together(rewrites, place, _again(self._fed), lambda _, edits, sites: run(edits, sites).seen)
        ran = run(made, sites)
        return Ran(ran.logits[:, first:], {site: value[:, first:] for site, value in ran.seen.items()})


def _again(fed: Sequence[_Fed]) -> dict[str, Edit]:
    """Return the edits of a whole text: of each stretch what was asked when it was fed."""

    def at(site: str) -> Edit:
        def edit(value: Tensor) -> Tensor:
            out = value.clone()
            for first, last, edits in fed:
                if site in edits:
                    out[:, first:last] = applied(edits[site], value[:, first:last]).to(value)
            return out

        return edit

    return {site: at(site) for site in dict.fromkeys(site for _, _, edits in fed for site in edits)}


def _spread(edits: Mapping[str, Edit], n: int) -> dict[str, Edit]:
    return {site: edit if callable(edit) else edit.expand(n, -1, -1) for site, edit in edits.items()}


def _nothing(value: Tensor) -> Tensor:
    return value

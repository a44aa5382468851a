"""How activations are read and runs are made: through the plain model where that is right, else through the bridge."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sae_lightning.lm.agreement import difference, tolerance, trial_length, trial_windows, widened
from sae_lightning.lm.bridge import modules_at
from sae_lightning.lm.bridged import BridgedModel
from sae_lightning.lm.caching import differing_cached
from sae_lightning.lm.outline import Names
from sae_lightning.lm.plain import PlainModel
from sae_lightning.lm.run import Ran, Request
from sae_lightning.lm.trial import begins_midway, differing_runs

logger = logging.getLogger(__name__)

# Which way activations are read: part of the key of kept ones, whose last bit it decides. Counted up when it changes.
READING = "plain-1"
# Windows of this length tell whether a run may begin midway.
_SHORT = 16


class Reader:
    """Activations at named sites and edited runs, each through one of two ways, whatever is read beside it.

    The bridge wraps every module and computes attention eagerly, which costs two to three times a plain pass. So a
    site that is the input or output of a module is read from the plain model, on the same weights (``lm.plain``), after
    both ways were tried on the same two windows and agreed (``lm.agreement``). A site that no module gives, or where
    they differ, is read through the bridge; one line says so. Runs are tried likewise, with something else written at
    the very sites that they write (``lm.trial``). The trial depends on the model, the sites and the windows' length,
    never on the text: the same run takes the same way again.

    bridge None: a model that transformer_lens does not know, which is ``twin`` itself; names: hook names that are told
    from its modules. Not thread-safe: whoever holds the model's lock reads.
    """

    def __init__(
        self, bridge: Any, twin: nn.Module | None, *, name: str, vocab_size: int, names: Names | None = None
    ) -> None:
        assert bridge is not None or twin is not None
        self.bridged = None if bridge is None else BridgedModel(bridge)
        known = names or {}

        def places(site: str) -> tuple[list[str], bool]:
            if bridge is not None:
                return modules_at(bridge, site)
            path, before = known.get(site, ("", False))
            return [path] if path else [], before

        self.plain = None if twin is None else PlainModel(twin, places)
        self._name = name
        self._vocab_size = vocab_size
        self._verdicts: dict[tuple[int, torch.dtype, str], bool] = {}
        self._run_verdicts: dict[tuple[Any, ...], bool] = {}
        self._cache_verdicts: dict[tuple[int, torch.dtype], str | None] = {}

    def read(self, tokens: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
        """Return the activation [b, p, ...] at each of ``sites`` that runs; runs no further than the last of them."""
        wanted = list(dict.fromkeys(sites))
        fast = set(self._fast(tokens, wanted))
        out: dict[str, Tensor] = {}
        if self.plain is not None and fast:
            out |= self.plain.read(tokens, [site for site in wanted if site in fast])
        if len(fast) < len(wanted):
            out |= self.through_bridge(tokens, [site for site in wanted if site not in fast])
        return {site: out[site] for site in wanted if site in out}

    def through_bridge(self, tokens: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
        """Return the activation at each of ``sites`` that runs, read through the bridge's hooks."""
        assert self.bridged is not None
        return self.bridged.read(tokens, sites)

    def look(self, tokens: Tensor, site: str) -> dict[str, Tensor]:
        """Return what there is at ``site`` where it runs, without a trial: hooks as the bridge has them."""
        if self.bridged is not None and (self.plain is None or self.bridged.is_hook(site)):
            return self.bridged.read(tokens, [site])
        assert self.plain is not None
        return self.plain.read(tokens, [site])

    def run(self, tokens: Tensor, request: Request) -> Ran:
        """Run ``tokens`` [b, p] with something else written at some sites; see ``FrozenLM.run``."""
        way = self.way(tokens, request)
        if isinstance(way, PlainModel) and self.bridged is None:
            request = self._begun(way, tokens, request)
        return way.run(tokens, request)

    def way(self, tokens: Tensor, request: Request) -> PlainModel | BridgedModel:
        """Return what runs windows as long as ``tokens`` [b, p] as ``request`` asks; tries it at the first time."""
        if self.bridged is None:
            assert self.plain is not None
            return self.plain
        fast = self.plain is not None and self._runs_plain(self.plain, self.bridged, tokens, request)
        return self.plain if fast and self.plain is not None else self.bridged

    def against_caching(self, plain: PlainModel, windows: Tensor) -> str | None:
        """Return what speaks against going on from a cache; tries it at the first time (``lm.caching``)."""
        key = (windows.shape[1], next(iter(plain.tensors())).dtype)
        if key not in self._cache_verdicts:
            self._cache_verdicts[key] = differing_cached(plain, windows)
        return self._cache_verdicts[key]

    def starts(self, site: str) -> bool:
        """Whether a run can begin at the residual ``site``."""
        return (self.bridged or self.plain).starts(site)  # pyright: ignore[reportOptionalMemberAccess] - one is there

    def _begun(self, plain: PlainModel, tokens: Tensor, request: Request) -> Request:
        """Return the request, from the tokens on where a block needs more of those below than what they give out."""
        if request.start is None:
            return request
        key = (request.start[0], next(iter(plain.tensors())).dtype)
        if key not in self._run_verdicts:
            windows = trial_windows(min(_SHORT, tokens.shape[1]), self._vocab_size, tokens.device)
            self._run_verdicts[key] = begins_midway(plain, windows, Request(sites=request.sites), request.start[0])
            if not self._run_verdicts[key]:
                logger.warning("lm %s: runs begin at the tokens: what it makes of %s needs more", self._name, key[0])
        return request if self._run_verdicts[key] else replace(request, start=None)

    def _runs_plain(self, plain: PlainModel, bridged: BridgedModel, tokens: Tensor, request: Request) -> bool:
        length = trial_length(tokens.shape[1], plain.sliding_window, wide=True)
        dtype = next(iter(bridged.tensors())).dtype
        start = request.start and request.start[0]
        key = (length, dtype, frozenset(request.edits), frozenset(request.sites), start)
        if key not in self._run_verdicts:
            against = None
            if start is not None and not plain.starts(start):
                against = f"no run of the plain model can begin at {start}"
            elif missing := [site for site in request.places if not plain.has(site)]:
                against = f"no module takes {missing[0]} in or gives it out"
            else:
                windows = trial_windows(length, self._vocab_size, tokens.device)
                against = differing_runs(plain, bridged, windows, request)
            self._run_verdicts[key] = against is None
            if against is not None:
                written = f"that write {', '.join(request.edits)} " if request.edits else ""
                logger.warning("lm %s: runs %sgo through the bridge, which is slower: %s", self._name, written, against)
        return self._run_verdicts[key]

    def _fast(self, tokens: Tensor, sites: list[str]) -> list[str]:
        """Return those of ``sites`` that are read from the plain model; tries the ones it meets for the first time."""
        plain = self.plain
        if plain is None or self.bridged is None:
            return [] if plain is None else sites
        length = trial_length(tokens.shape[1], plain.sliding_window)
        dtype = next(iter(self.bridged.tensors())).dtype
        if new := [site for site in sites if (length, dtype, site) not in self._verdicts]:
            against = self._try(plain, self.bridged, new, length, tokens.device)
            for site in new:
                self._verdicts[length, dtype, site] = site not in against
                if site in against:
                    reason = f"{site} is read through the bridge, which is slower: {against[site]}"
                    logger.warning("lm %s: %s", self._name, reason)
        return [site for site in sites if self._verdicts[length, dtype, site]]

    def _try(
        self, plain: PlainModel, bridged: BridgedModel, sites: list[str], length: int, device: torch.device
    ) -> dict[str, str]:
        """Return what speaks against reading some of ``sites`` from the plain model."""
        against = {site: "no module takes it in or gives it out" for site in sites if not plain.has(site)}
        if has := [site for site in sites if site not in against]:
            against |= _differing(plain, bridged, has, trial_windows(length, self._vocab_size, device))
            with widened([*plain.tensors(), *bridged.tensors()]) as wide:
                short = trial_length(length, plain.sliding_window, wide=True)
                if wide and (left := [site for site in has if site not in against]):
                    against |= _differing(plain, bridged, left, trial_windows(short, self._vocab_size, device))
        return against


def _differing(plain: PlainModel, bridged: BridgedModel, sites: list[str], windows: Tensor) -> dict[str, str]:
    """Return the sites at which the plain model is not the bridge, and how."""
    try:
        ours = plain.read(windows, sites)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model's own forward, called as not every model lets itself be called
        return dict.fromkeys(sites, f"the plain model does not run ({type(error).__name__}: {error})")
    theirs = bridged.read(windows, sites)
    out: dict[str, str] = {}
    for site in sites:
        if site not in ours:
            out[site] = "the plain model does not come by it"
            continue
        # A module that the bridge computes past has no other measure than the plain model.
        if site not in theirs and not bridged.is_hook(site):
            continue
        allowed = tolerance(theirs[site].dtype, windows.device)
        off = difference(ours[site], theirs[site])
        if not off <= allowed:
            kind = str(theirs[site].dtype).removeprefix("torch.")
            out[site] = f"the plain model with {plain.attention} attention is off by {off:.2g} in {kind}"
    return out

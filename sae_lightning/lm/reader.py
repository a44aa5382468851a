"""How activations are read: through the plain model where that is right, else through the bridge."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sae_lightning.lm.agreement import difference, tolerance, trial_length, trial_windows, widened
from sae_lightning.lm.collect import Collector
from sae_lightning.lm.plain import PlainModel

logger = logging.getLogger(__name__)

# Which way activations are read: part of the key of kept ones, whose last bit it decides. Counted up when it changes.
READING = "plain-1"


class Reader:
    """Activations at named sites, each through one of two ways, whatever is read beside it.

    The bridge wraps every module and computes attention eagerly, which costs two to three times a plain pass. So a
    site that is the input or output of a module is read from the plain model, on the same weights (``lm.plain``), after
    both ways were tried on the same two windows and agreed (``lm.agreement``). A site that no module gives, or where
    they differ, is read through the bridge; one line says so. The trial depends on the model, the site and the windows'
    length, never on the text: the same run takes the same way again.

    Not thread-safe: whoever holds the model's lock reads.
    """

    def __init__(self, bridge: Any, twin: nn.Module | None, *, name: str, vocab_size: int) -> None:
        self._bridge = bridge
        self._name = name
        self._vocab_size = vocab_size
        self._plain = None if twin is None else PlainModel(twin, bridge)
        self._verdicts: dict[tuple[int, torch.dtype, str], bool] = {}

    def read(self, tokens: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
        """Return the activation [b, p, ...] at each of ``sites``; runs no further than the last of them."""
        wanted = list(dict.fromkeys(sites))
        fast = set(self._fast(tokens, wanted))
        out: dict[str, Tensor] = {}
        if self._plain is not None and fast:
            out |= self._plain.read(tokens, [site for site in wanted if site in fast])
        if len(fast) < len(wanted):
            out |= self.through_bridge(tokens, [site for site in wanted if site not in fast])
        return {site: out[site] for site in wanted}

    def through_bridge(self, tokens: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
        """Return the activation at each of ``sites`` that runs, read through the bridge's hooks."""
        collector = Collector(sites)

        def reader(site: str) -> Callable[..., None]:
            return lambda value, hook: collector.see(site, value)  # the bridge names its arguments

        hooks = [(site, reader(site)) for site in collector.wanted]
        with collector.watching():
            self._bridge.run_with_hooks(tokens, fwd_hooks=hooks, use_cache=False)
        return collector.values()

    def _fast(self, tokens: Tensor, sites: list[str]) -> list[str]:
        """Return those of ``sites`` that are read from the plain model; tries the ones it meets for the first time."""
        plain = self._plain
        if plain is None:
            return []
        length = trial_length(tokens.shape[1], plain.sliding_window)
        dtype = next(self._bridge.original_model.parameters()).dtype
        if new := [site for site in sites if (length, dtype, site) not in self._verdicts]:
            against = self._try(plain, new, length, tokens.device)
            for site in new:
                self._verdicts[length, dtype, site] = site not in against
                if site in against:
                    reason = f"{site} is read through the bridge, which is slower: {against[site]}"
                    logger.warning("lm %s: %s", self._name, reason)
        return [site for site in sites if self._verdicts[length, dtype, site]]

    def _try(self, plain: PlainModel, sites: list[str], length: int, device: torch.device) -> dict[str, str]:
        """Return what speaks against reading some of ``sites`` from the plain model."""
        against = {site: "no module takes it in or gives it out" for site in sites if not plain.has(site)}
        if has := [site for site in sites if site not in against]:
            against |= self._differing(plain, has, trial_windows(length, self._vocab_size, device))
            with widened([*plain.tensors(), *self._tensors()]) as wide:
                short = trial_length(length, plain.sliding_window, wide=True)
                if wide and (left := [site for site in has if site not in against]):
                    against |= self._differing(plain, left, trial_windows(short, self._vocab_size, device))
        return against

    def _differing(self, plain: PlainModel, sites: list[str], windows: Tensor) -> dict[str, str]:
        """Return the sites at which the plain model is not the bridge, and how."""
        try:
            ours = plain.read(windows, sites)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a model's own forward, called as not every model lets itself be called
            return dict.fromkeys(sites, f"the plain model does not run ({type(error).__name__}: {error})")
        theirs = self.through_bridge(windows, sites)
        out: dict[str, str] = {}
        for site in sites:
            if site not in ours:
                out[site] = "the plain model does not come by it"
                continue
            allowed = tolerance(theirs[site].dtype, windows.device)
            off = difference(ours[site], theirs[site])
            if not off <= allowed:
                kind = str(theirs[site].dtype).removeprefix("torch.")
                out[site] = f"the plain model with {plain.attention} attention is off by {off:.2g} in {kind}"
        return out

    def _tensors(self) -> list[Tensor]:
        model = self._bridge.original_model
        return [*model.parameters(), *model.buffers()]

"""The model as Hugging Face runs it, beside the bridge and on the same weights: what reading goes through."""

import contextlib
import copy
import itertools
import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sae_lightning.lm.bridge import modules_at
from sae_lightning.lm.collect import Collector

logger = logging.getLogger(__name__)


def plain_twin(model: nn.Module, name: str) -> nn.Module | None:
    """Return a second module tree over the very tensors of a Hugging Face ``model``, with sdpa attention if it can.

    To be called before a bridge wraps the model's modules in place and turns its attention eager: modules and config
    are copied, parameters and buffers are shared, so it costs no memory and follows whatever is done to the weights.
    Models whose attention sdpa can't express (Gemma 2 caps its scores) say so themselves and keep the one they were
    loaded with. None, with a logged line, for a model that can't be copied.
    """
    shared = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    try:
        twin = copy.deepcopy(model, shared)
    except Exception as error:  # any module's own way of refusing to be copied
        logger.warning(
            "lm %s: reads through the bridge, which is slower: its modules can't be copied (%s)", name, error
        )
        return None
    with contextlib.suppress(ValueError, AttributeError, ImportError):
        twin.set_attn_implementation("sdpa")  # pyright: ignore[reportCallIssue] - of PreTrainedModel
    return twin.eval().requires_grad_(False)


class PlainModel:
    """Reads the inputs and outputs of a plain model's modules under the bridge's site names.

    A pass runs up to the last module asked for and no further; only the modules asked for carry a hook.
    """

    def __init__(self, twin: nn.Module, bridge: Any) -> None:
        self._twin = twin
        self._bridge = bridge
        self._places: dict[str, tuple[nn.Module, bool] | None] = {}

    @property
    def attention(self) -> str:
        """Which attention it runs: sdpa, or what the model was loaded with."""
        return str(getattr(getattr(self._twin, "config", None), "_attn_implementation", None))

    @property
    def sliding_window(self) -> int | None:
        """How far its attention looks back, where that is bounded."""
        window = getattr(getattr(self._twin, "config", None), "sliding_window", None)
        return window if isinstance(window, int) else None

    def tensors(self) -> list[Tensor]:
        """Return its parameters and buffers."""
        return [*self._twin.parameters(), *self._twin.buffers()]

    def has(self, site: str) -> bool:
        """Whether ``site`` is what a module takes in or gives out."""
        if site not in self._places:
            paths, before = modules_at(self._bridge, site)
            modules = dict(self._twin.named_modules())
            found = next((modules[path] for path in paths if path in modules), None)
            self._places[site] = None if found is None else (found, before)
        return self._places[site] is not None

    def read(self, tokens: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
        """Return the activation [b, p, ...] at each site that a pass over ``tokens`` [b, p] comes by."""
        collector = Collector(sites)
        with collector.watching(), contextlib.ExitStack() as hooks:
            for site in collector.wanted:
                hooks.callback(self._hook(site, collector).remove)
            # Windows are right-padded and attention is causal: no mask, so that sdpa can take its fastest kernel.
            self._twin(input_ids=tokens, use_cache=False)
        return collector.values()

    def _hook(self, site: str, collector: Collector) -> Any:
        place = self._places[site]
        assert place is not None
        module, before = place

        def see(value: Any) -> None:
            value = value[0] if isinstance(value, tuple) else value
            if not isinstance(value, Tensor):
                raise TypeError(f"the module at {site} deals in {type(value).__name__}")
            collector.see(site, value)

        if before:
            return module.register_forward_pre_hook(
                lambda _module, args, kwargs: see(args[0] if args else kwargs.get("hidden_states")), with_kwargs=True
            )
        return module.register_forward_hook(lambda _module, _args, out: see(out))

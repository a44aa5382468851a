"""The model as Hugging Face runs it, beside the bridge and on the same weights: what reading and runs go through."""

import contextlib
import copy
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sae_lightning.lm.collect import Collector
from sae_lightning.lm.modules import gives_tuple, hook_module, passed_over, split_path
from sae_lightning.lm.run import Ran, Request, Visit
from sae_lightning.lm.sites import site_layer

logger = logging.getLogger(__name__)

# (site) -> paths at which the module may lie whose input or output the site is, and whether its input is meant.
Map = Callable[[str], tuple[list[str], bool]]


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
    return with_sdpa(twin).eval().requires_grad_(False)


def with_sdpa(model: nn.Module) -> nn.Module:
    """Return ``model`` with sdpa attention, where it has a choice."""
    with contextlib.suppress(ValueError, AttributeError, ImportError):
        model.set_attn_implementation("sdpa")  # pyright: ignore[reportCallIssue] - of PreTrainedModel
    return model


class PlainModel:
    """Reads and edits the inputs and outputs of a plain model's modules under site names.

    A site is a module path (``lm.modules``) or a name that ``names`` translates. Reading runs up to the last module
    asked for and no further; only the modules asked for carry a hook.
    """

    def __init__(self, twin: nn.Module, names: Map) -> None:
        self.twin = twin
        self.paths = dict(twin.named_modules())
        self._names = names
        self._places: dict[str, tuple[nn.Module, bool] | None] = {}
        self._tuple_blocks: bool | None = None

    @property
    def attention(self) -> str:
        """Which attention it runs: sdpa, or what the model was loaded with."""
        return str(getattr(getattr(self.twin, "config", None), "_attn_implementation", None))

    @property
    def sliding_window(self) -> int | None:
        """How far its attention looks back, where that is bounded."""
        window = getattr(getattr(self.twin, "config", None), "sliding_window", None)
        return window if isinstance(window, int) else None

    def tensors(self) -> list[Tensor]:
        """Return its parameters and buffers."""
        return [*self.twin.parameters(), *self.twin.buffers()]

    def has(self, site: str) -> bool:
        """Whether ``site`` is what a module takes in or gives out."""
        if site not in self._places:
            paths, before = self._names(site)
            path, at_input = split_path(site)
            if not paths and path in self.paths:
                paths, before = [path], at_input
            found = next((self.paths[path] for path in paths if path in self.paths), None)
            self._places[site] = None if found is None else (found, before)
        return self._places[site] is not None

    def starts(self, site: str) -> bool:
        """Whether a run can begin at the residual ``site``: it and those below are what the blocks give out."""
        return self._blocks(site) is not None

    def read(self, tokens: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
        """Return the activation [b, p, ...] at each site that a pass over ``tokens`` [b, p] comes by."""
        collector = Collector(sites)
        with collector.watching(), contextlib.ExitStack() as hooks:
            for site in collector.wanted:
                self._hook(hooks, site, lambda value, site=site: collector.see(site, value))
            self._forward(tokens)
        return collector.values()

    def run(self, tokens: Tensor, request: Request, cache: Any = None) -> Ran:
        """Run ``tokens`` [b, p] with something else written at some sites; see ``FrozenLM.run``.

        cache: keys and values of the tokens before these, which grows by them (``lm.caching``).
        """
        visit = Visit(request)
        with contextlib.ExitStack() as stack:
            if request.start is not None:
                site, clean = request.start
                blocks = self._blocks(site)
                assert blocks is not None
                stack.enter_context(passed_over(blocks, lambda: clean, self._gives_tuples(blocks[0], tokens)))
            for site in request.places:
                self._hook(stack, site, lambda value, site=site: visit.come_by(site, value))
            stack.enter_context(request.gradients())
            return visit.ran(self._forward(tokens, cache))

    def _forward(self, tokens: Tensor, cache: Any = None) -> Tensor:
        # Windows are right-padded and attention is causal: no mask, so that sdpa can take its fastest kernel.
        earlier = {} if cache is None else {"past_key_values": cache}
        out = self.twin(input_ids=tokens, use_cache=cache is not None, **earlier)
        return out[0] if isinstance(out, tuple) else getattr(out, "logits", out)

    def _hook(self, stack: contextlib.ExitStack, site: str, come_by: Callable[[Tensor], Tensor | None]) -> None:
        place = self._places[site] if self.has(site) else None
        assert place is not None
        stack.callback(hook_module(*place, site, come_by).remove)

    def _blocks(self, site: str) -> list[nn.Module] | None:
        layer = site_layer(site)
        names = [f"blocks.{i}.hook_resid_post" for i in range(-1 if layer is None else layer + 1)]
        places = [self._places[name] for name in names if self.has(name)]
        blocks = [place[0] for place in places if place is not None and not place[1]]
        at_site = self._places[site] if self.has(site) else None
        if not blocks or len(blocks) != len(names) or at_site != (blocks[-1], False):
            return None
        return blocks

    def _gives_tuples(self, block: nn.Module, tokens: Tensor) -> bool:
        if self._tuple_blocks is None:
            with torch.no_grad():
                self._tuple_blocks = gives_tuple(block, lambda: self._forward(tokens[:1, :2]))
        return self._tuple_blocks

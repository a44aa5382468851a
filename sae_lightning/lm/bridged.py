"""The model as its TransformerBridge runs it: every hook of transformer_lens, with eager attention."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sae_lightning.lm.bridge import paths_of
from sae_lightning.lm.collect import Collector
from sae_lightning.lm.modules import gives_tuple, hook_module, passed_over, split_path
from sae_lightning.lm.run import Ran, Request, Visit
from sae_lightning.lm.sites import site_layer


class BridgedModel:
    """Reads and edits a bridge's hooks, and its modules by the paths they had before the bridge wrapped them."""

    def __init__(self, bridge: Any) -> None:
        self.bridge = bridge
        self.paths: dict[str, nn.Module] = paths_of(bridge)
        self._hooks = frozenset(bridge.hook_dict)
        self._tuple_blocks: bool | None = None

    def tensors(self) -> list[Tensor]:
        """Return its parameters and buffers."""
        model = self.bridge.original_model
        return [*model.parameters(), *model.buffers()]

    def is_hook(self, site: str) -> bool:
        """Whether ``site`` is a hook of transformer_lens."""
        return site in self._hooks

    def starts(self, site: str) -> bool:
        """Whether a run can begin at ``site``: a block's output."""
        layer = site_layer(site)
        return layer is not None and site in (f"blocks.{layer}.hook_resid_post", f"blocks.{layer}.hook_out")

    def read(self, tokens: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
        """Return the activation [b, p, ...] at each of ``sites`` that runs; runs no further than the last of them."""
        collector = Collector(sites)
        with collector.watching(), contextlib.ExitStack() as stack:
            self._pass(tokens, collector.wanted, collector.see, stack)
        return collector.values()

    def run(self, tokens: Tensor, request: Request) -> Ran:
        """Run ``tokens`` [b, p] with something else written at some sites; see ``FrozenLM.run``."""
        visit = Visit(request)
        with contextlib.ExitStack() as stack:
            if request.start is not None:
                site, clean = request.start
                layer = site_layer(site)
                assert layer is not None
                blocks = [self.bridge.blocks[i] for i in range(layer + 1)]
                stack.enter_context(
                    passed_over(blocks, lambda: blocks[-1].hook_out(clean), self._gives_tuples(blocks[0], tokens))
                )
            stack.enter_context(request.gradients())
            return visit.ran(self._pass(tokens, request.places, visit.come_by, stack))

    def _pass(
        self,
        tokens: Tensor,
        sites: Sequence[str],
        come_by: Callable[[str, Tensor], Tensor | None],
        stack: contextlib.ExitStack,
    ) -> Tensor:
        hooks: list[tuple[str, Callable[..., Tensor | None]]] = []
        for site in sites:
            if self.is_hook(site):
                # The bridge names its arguments.
                hooks.append((site, lambda value, hook, site=site: come_by(site, value)))
            else:
                path, before = split_path(site)
                handle = hook_module(self.paths[path], before, site, lambda value, site=site: come_by(site, value))
                stack.callback(handle.remove)
        return self.bridge.run_with_hooks(tokens, fwd_hooks=hooks, use_cache=False)

    def _gives_tuples(self, block: nn.Module, tokens: Tensor) -> bool:
        if self._tuple_blocks is None:
            with torch.no_grad():
                run = lambda: self.bridge(tokens[:1, :2], use_cache=False)  # noqa: E731
                self._tuple_blocks = gives_tuple(block, run)
        return self._tuple_blocks

"""Hooks on the modules of a model: what goes in, what comes out, and blocks that are passed over."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

#: What ends the path of a module whose input is meant, not its output.
INPUT = ":in"

# Given a value, returns what to put in its place, or None to leave it.
ComeBy = Callable[[Tensor], Tensor | None]


def split_path(site: str) -> tuple[str, bool]:
    """Return (module path, whether its input is meant): ``model.layers.4.mlp`` or ``model.layers.4.mlp:in``."""
    return (site.removesuffix(INPUT), True) if site.endswith(INPUT) else (site, False)


def module_sites(paths: Mapping[str, nn.Module]) -> list[str]:
    """Return the sites that modules have, their outputs and their inputs; lists of modules have none."""
    found = [path for path, module in paths.items() if path and not isinstance(module, nn.ModuleList | nn.ModuleDict)]
    return [site for path in found for site in (path, path + INPUT)]


def hook_module(module: nn.Module, before: bool, site: str, come_by: ComeBy) -> Any:
    """Call ``come_by`` with what ``module`` gives out (before: takes in) [b, p, ...]; return the handle of the hook.

    Of a tuple its first entry is meant; of arguments the first tensor, by position or by name.
    """

    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place = next((i for i, value in enumerate(args) if isinstance(value, Tensor)), None)
        if place is not None:
            new = come_by(args[place])
            return None if new is None else ((*args[:place], new, *args[place + 1 :]), kwargs)
        names = [key for key, value in kwargs.items() if isinstance(value, Tensor)]
        name = "hidden_states" if "hidden_states" in names else next(iter(names), None)
        if name is None:
            raise TypeError(f"the module at {site} takes no tensor")
        new = come_by(kwargs[name])
        return None if new is None else (args, {**kwargs, name: new})

    def leave(_module: nn.Module, _args: Any, out: Any) -> Any:
        value = out[0] if isinstance(out, tuple) and out else out
        if not isinstance(value, Tensor):
            raise TypeError(f"the module at {site} gives {type(value).__name__}")
        new = come_by(value)
        if new is None:
            return None
        return (new, *out[1:]) if isinstance(out, tuple) else new

    if before:
        return module.register_forward_pre_hook(enter, with_kwargs=True)
    return module.register_forward_hook(leave)


@contextlib.contextmanager
def passed_over(blocks: Sequence[nn.Module], clean: Callable[[], Tensor], as_tuple: bool) -> Iterator[None]:
    """Let the last of ``blocks`` give ``clean()`` [b, p, d_model] and those before it pass on what they get.

    Hooks on them run. as_tuple: whether the model's blocks return (hidden,) rather than hidden.
    """

    def pass_on(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden,) if as_tuple else hidden

    def inject(*_args: Any, **_kwargs: Any) -> Any:
        return (clean(),) if as_tuple else clean()

    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            # Past a bridge's __setattr__, which would hand the attribute on to the wrapped module.
            object.__setattr__(block, "forward", inject if block is blocks[-1] else pass_on)
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            vars(block).pop("forward", None)
            if forward is not None:  # accelerate's own, where a model lies on several devices
                object.__setattr__(block, "forward", forward)


def gives_tuple(block: nn.Module, run: Callable[[], Any]) -> bool:
    """Whether ``block`` returns (hidden, ...) rather than hidden, seen while ``run`` runs the model."""
    kinds: list[bool] = []
    handle = block.register_forward_hook(lambda _m, _a, out: kinds.append(isinstance(out, tuple)))
    try:
        run()
    finally:
        handle.remove()
    return bool(kinds) and kinds[0]

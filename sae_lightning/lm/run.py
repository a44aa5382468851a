"""A run of the language model with something else written at some sites: what is asked of it and what it shows."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Edit = Tensor | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Ran:
    """logits: of the next tokens. seen: activations at the sites asked for, after edits, by exactly those names."""

    logits: Float[Tensor, "b p vocab"]
    seen: Mapping[str, Float[Tensor, "b p d"]]


@dataclass(frozen=True)
class Request:
    """What is asked of a run; see ``FrozenLM.run``."""

    edits: Mapping[str, Edit] = field(default_factory=dict)
    keep: Bool[Tensor, "b p"] | None = None
    start: tuple[str, Tensor] | None = None
    sites: tuple[str, ...] = ()
    grad: bool = False

    @property
    def places(self) -> list[str]:
        """Return every site that a run has to come by, those that are written first: what is seen is seen after."""
        return list(dict.fromkeys([*self.edits, *self.sites]))

    def gradients(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which the model runs."""
        return torch.enable_grad() if self.grad else torch.no_grad()


class Visit:
    """One run of a ``Request``: told of every site that the model comes by, it writes and remembers."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._came_by: set[str] = set()
        self._seen: dict[str, Tensor] = {}

    def come_by(self, site: str, value: Tensor) -> Tensor | None:
        """Return what to write in place of ``value`` [b, p, ...], None to leave it."""
        self._came_by.add(site)
        written = self._written(site, value) if site in self.request.edits else None
        if site in self.request.sites:
            self._seen[site] = (value if written is None else written).flatten(2)
        return written

    def ran(self, logits: Tensor) -> Ran:
        """Return what the run showed. Raises ValueError for sites that it did not come by."""
        if missed := [site for site in self.request.places if site not in self._came_by]:
            start = self.request.start[0] if self.request.start else None
            raise ValueError(f"{missed} never ran: they lie below start={start}, or this model passes them by")
        return Ran(logits, {site: self._seen[site] for site in self.request.sites})

    def _written(self, site: str, value: Tensor) -> Tensor:
        edit, keep = self.request.edits[site], self.request.keep
        clean = value.flatten(2)
        new = edit(clean) if callable(edit) else edit
        if new.shape != clean.shape:
            raise ValueError(f"edit at {site}: shape {tuple(new.shape)}, must be {tuple(clean.shape)}")
        new = new.to(clean)
        if keep is not None:
            new = torch.where(keep.to(clean.device)[..., None], new, clean)
        return new.view(value.shape)

"""Keeps what a forward pass shows of itself, and ends the pass when it has shown everything."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class _AllSeen(Exception):  # noqa: N818 - leaves the forward pass once every site has been read
    pass


class Collector:
    """The values [b, p, ...] seen so far, by site; ``see`` leaves the pass with the last of the sites wanted."""

    def __init__(self, sites: Sequence[str]) -> None:
        self.wanted = list(dict.fromkeys(sites))
        self._seen: dict[str, Tensor] = {}

    def see(self, site: str, value: Tensor) -> None:
        """Keep ``value``. Raises what ``watching`` catches when nothing is left to be seen."""
        self._seen[site] = value.detach()
        if len(self._seen) == len(self.wanted):
            raise _AllSeen

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Run a pass without gradients, up to the last site."""
        # no_grad, not inference_mode: what comes out must be able to enter autograd.
        with torch.no_grad(), contextlib.suppress(_AllSeen):
            yield

    def values(self) -> dict[str, Tensor]:
        """Return what was seen, in the order wanted."""
        return {site: self._seen[site] for site in self.wanted if site in self._seen}

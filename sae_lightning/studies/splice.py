"""Runs of the language model with something else written where an SAE reads."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import TokenBatch
from sae_lightning.lm import FrozenLM
from sae_lightning.lm.sites import MEMBERS, member_of, resume_site
from sae_lightning.studies.passes import Pass, Text

# Numbers in one chunk's [windows, pos, vocab] logits: 256 MB in float32. Two such are alive at once.
_LOGITS = 1 << 26


def windows_at_a_time(lm: FrozenLM, length: int) -> int:
    """Return how many windows' logits are made at once: a function of their size alone."""
    return max(1, _LOGITS // (length * lm.vocab_size))


def text_chunks(unit: Pass, size: int) -> Iterator[tuple[Text, slice]]:
    """Yield a few windows of the unit at a time, and where their rows are."""
    text = unit.text
    assert text is not None
    for first in range(0, len(unit), size):
        last = min(first + size, len(unit))
        tokens = TokenBatch(**{name: value[first:last] for name, value in vars(text.tokens).items()})
        part = Text(tokens, text.acts[first:last], text.targets[first:last], text.keep[first:last])
        yield part, slice(unit.offsets[first], unit.offsets[last])


class Splice:
    """Runs of the language model on the same windows with something else written at the sites."""

    def __init__(self, lm: FrozenLM, sites: tuple[str, ...], text: Text) -> None:
        self.lm, self.sites, self.batch, self.keep = lm, sites, text.tokens, text.keep
        self.clean_acts = text.targets
        # Elsewhere than at a site that is written nothing is known of the residual stream.
        start = resume_site(sites)
        self.start = start if start in sites else None

    def clean(self) -> Float[Tensor, "b p vocab"]:
        """Run with the sites' own activations written back: the same arithmetic as every other run."""
        return self._logits(self.clean_acts)

    def run(self, rows: Float[Tensor, "n d_out"], *, grad: bool = False) -> Float[Tensor, "b p vocab"]:
        """Run with ``rows`` written where the mask is True. grad: let gradients pass from the logits to them."""
        edited = self.clean_acts.clone()
        edited[self.keep] = rows.to(edited)
        return self._logits(edited, grad)

    def _by_site(self, acts: Float[Tensor, "b p d_out"]) -> dict[str, Tensor]:
        widths = [self.lm.site_width(site) for site in self.sites]
        return dict(zip(self.sites, acts.split(widths, dim=-1), strict=True))

    def _logits(self, acts: Float[Tensor, "b p d_out"], grad: bool = False) -> Float[Tensor, "b p vocab"]:
        start = None if self.start is None else (self.start, self._by_site(self.clean_acts)[self.start])
        return self.lm.logits(self.batch.tokens, self._by_site(acts), keep=self.keep, start=start, grad=grad)


def splices(lm: FrozenLM, sites: tuple[str, ...], text: Text) -> dict[str | None, tuple[Splice, Tensor]]:
    """Return a splice for each language model that is written, and which columns of a reconstruction go there.

    Of two models side by side one each, by its part in the pair; else one, under None.
    """
    numbers = torch.arange(text.targets.shape[-1], device=text.targets.device)
    if all(member_of(site)[0] is None for site in sites):
        return {None: (Splice(lm, sites, text), numbers)}
    by_site = dict(zip(sites, numbers.split([lm.site_width(site) for site in sites]), strict=True))
    out: dict[str | None, tuple[Splice, Tensor]] = {}
    for member in MEMBERS:
        if own := [site for site in sites if member_of(site)[0] == member]:
            columns = torch.cat([by_site[site] for site in own])
            part = replace(text, targets=text.targets[..., columns])
            out[member] = Splice(lm, tuple(own), part), columns
    return out

"""The rest of the language model, above the sites that an SAE writes: what it makes of a reconstruction."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import WindowBatch
from sae_lightning.lm import FrozenLM
from sae_lightning.losses import ModelRun


class Downstream:
    """Runs a frozen language model from a batch's own activations, clean or with a reconstruction in their place.

    Both runs begin at ``start`` (the residual stream below the sites; None: at the tokens) and write the sites, so that
    they differ by what is written and by nothing else: the identity as reconstruction gives the same bits.

    lm: a ``FrozenLM``; not trained, and its weights get no gradient. sites: what is written. start: see
    ``lm.resume_site``. later: sites whose activations a loss compares.
    """

    def __init__(self, lm: FrozenLM, sites: Sequence[str], start: str | None, later: Sequence[str] = ()) -> None:
        self.lm = lm
        self.sites = tuple(sites)
        self.start = start
        self.later = tuple(later)
        self._widths = [lm.site_width(site) for site in self.sites]

    def clean(self, batch: WindowBatch) -> ModelRun:
        """Run with the activations as they are."""
        return self._run(batch, batch.written, grad=False)

    def spliced(self, batch: WindowBatch, rows: Float[Tensor, "n d_out"]) -> ModelRun:
        """Run with raw ``rows`` written where ``batch.keep`` is True; gradients reach them."""
        written = batch.written.to(rows.device)
        keep = batch.keep.to(rows.device)
        written = written.masked_scatter(keep[..., None].expand_as(written), rows.to(written.dtype))
        return self._run(batch, written, grad=torch.is_grad_enabled())

    def _run(self, batch: WindowBatch, written: Tensor, *, grad: bool) -> ModelRun:
        edits: Mapping[str, Tensor] = dict(zip(self.sites, written.split(self._widths, dim=-1), strict=True))
        start = None if self.start is None or batch.below is None else (self.start, batch.below)
        run = self.lm.run(batch.windows.tokens, edits, keep=batch.keep, start=start, sites=self.later, grad=grad)
        return ModelRun(run.logits, run.seen)

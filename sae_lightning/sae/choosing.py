"""Encoders whose gradient passes through chosen pairs alone."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.forms import Rows
from sae_lightning.sae.kernels import Chosen, Selector, SparsePattern, pair_pre_acts, pattern_of, pre_act_blocks


class ChoosingAutoencoder(SparseAutoencoder):
    """Pre-activations go by in blocks without gradients, a ``Selector`` keeps pairs, and those are differentiable.

    In training the product that selects may be narrower than the weights (``execution``): it names candidates, which
    are scored exactly, and of those the selection keeps what it keeps.
    """

    def _blocks(self, x: Float[Tensor, "n d_in"]) -> Iterator[Float[Tensor, "n width"]]:
        """Yield z in blocks of features, in the weights' dtype, without gradients; each is overwritten by the next."""
        norms = self.decoder_norms().detach() if self.rescale_acts_by_decoder_norm else None
        centred, W_enc, b_enc = self._rows(x).centred, self.W_enc, self.b_enc
        return (z for _, z in pre_act_blocks(centred, W_enc, b_enc, norms, self.execution, W_enc.dtype))

    def _choose(
        self, rows: Rows, selector: Selector, pre_acts: Tensor | None = None
    ) -> tuple[Float[Tensor, "nnz"], SparsePattern, Float[Tensor, "n d_sae"] | None]:
        """Return z at the pairs kept (differentiable), the pairs, and all pre-activations where they exist as a whole.

        pre_acts: of these rows, where they are there already.
        """
        norms = self.decoder_norms().detach() if self.rescale_acts_by_decoder_norm else None
        dtype = self.execution.selecting_dtype(self.W_enc) if self.training else self.W_enc.dtype
        dtype = dtype if pre_acts is None else pre_acts.dtype
        narrow = dtype.itemsize < self.W_enc.dtype.itemsize
        looking = selector.wider() if narrow else selector
        if pre_acts is not None:
            looking.add(pre_acts.detach(), 0)
        else:
            centred, W_enc, b_enc = rows.centred, self.W_enc, self.b_enc
            for first, z in pre_act_blocks(centred, W_enc, b_enc, norms, self.execution, dtype, looking.multiple):
                looking.add(z, first)
                pre_acts = z if z.shape[1] == self.width else None
        chosen = looking.chosen()
        if narrow:
            chosen = selector.among(chosen._replace(scores=self._exact(rows, chosen, norms)))
        pattern = pattern_of(chosen.indices, chosen.offsets, self.width)
        return self._selected(rows, pattern, chosen.scores), pattern, pre_acts

    def _exact(self, rows: Rows, chosen: Chosen, norms: Tensor | None) -> Float[Tensor, "nnz"]:
        pattern = pattern_of(chosen.indices, chosen.offsets, self.width)
        z = pair_pre_acts(rows.centred.detach(), self.W_enc.detach(), self.b_enc.detach(), pattern)
        return z if norms is None else z * norms[chosen.indices]

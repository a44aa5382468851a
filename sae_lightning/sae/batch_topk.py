"""BatchTopK: the batch keeps its k * n largest pre-activations; inference keeps what exceeds a threshold."""

from collections.abc import Iterable
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.sae.forms import Encoded, InitDefaults, Rows
from sae_lightning.sae.kernels import Above, BatchTopK, GlobalBatchTopK, Selector
from sae_lightning.sae.order_statistic import threshold_for
from sae_lightning.sae.selective import SelectiveAutoencoder


class BatchTopKSAE(SelectiveAutoencoder):
    """Training: ``f = ReLU(z)`` on the ``k * n`` largest z of the batch; inference: ``f = z`` where ``z > threshold``.

    threshold: in each training forward an exponential mean of the batch's smallest positive activation,
    ``t <- (1 - rate) t + rate * min``, started at the first one; ``calibrate_threshold`` replaces it at the end by the
    exact value that gives a target L0 on held-out data. float64 whatever the SAE's dtype. Before any training it
    is 0, which is a plain ReLU.

    Trained as TopK. Source: Bussmann, Leask, Nanda 2024, "BatchTopK sparse autoencoders".
    """

    name = "batch_topk"
    unit_norm_default = True
    init_defaults = InitDefaults("tied", 1.0, "geometric_median")
    keep_dtype = ("threshold",)
    threshold: Tensor
    threshold_set: Tensor

    def __init__(
        self,
        d_in: PositiveInt,
        d_sae: PositiveInt,
        d_out: PositiveInt | None = None,
        *,
        k: PositiveInt = 32,
        threshold_rate: Annotated[float, Gt(0), Le(1)] = 0.05,
        k_start: PositiveInt | None = None,
        k_anneal: Annotated[float, Ge(0), Le(1)] = 0.0,
        rescale_acts_by_decoder_norm: bool | None = None,
        subtract_b_dec: bool | None = None,
        unit_norm_decoder: bool | None = None,
        skip: bool = False,
        layer_norm: bool = False,
        site_widths: tuple[PositiveInt, ...] | None = None,
    ) -> None:
        super().__init__(
            d_in,
            d_sae,
            d_out,
            k,
            k_start,
            k_anneal,
            rescale_acts_by_decoder_norm=rescale_acts_by_decoder_norm,
            subtract_b_dec=subtract_b_dec,
            unit_norm_decoder=unit_norm_decoder,
            skip=skip,
            layer_norm=layer_norm,
            site_widths=site_widths,
        )
        if not 0 < threshold_rate <= 1:
            raise UserError(f"threshold_rate={threshold_rate}: must lie above 0 and at most at 1")
        self.threshold_rate = threshold_rate
        self.register_buffer("threshold", torch.zeros((), dtype=torch.float64))
        self.register_buffer("threshold_set", torch.zeros((), dtype=torch.bool))

    def selector(self, n: int, k: int | None = None) -> Selector:
        if k is None and not self.training:
            return Above(self.threshold, self.width)
        k = min(self.k_effective if k is None else k, self.d_sae)
        ranks = self.execution.ranks
        if ranks.alone:
            return BatchTopK(k * n, self.width)
        if self.execution.sharded:
            return GlobalBatchTopK(k * n, self.width, ranks, first=self.first, d_whole=self.d_sae)
        rows = ranks.stack(torch.tensor(n, device=self.b_enc.device)).tolist()
        return GlobalBatchTopK(k * sum(rows), self.d_sae, ranks, first_row=sum(rows[: ranks.rank]))

    def _encode(self, rows: Rows) -> Encoded:
        encoded = super()._encode(rows)
        if self.training:
            self._follow(encoded.features.values)
        return encoded

    @torch.no_grad()
    def _follow(self, values: Float[Tensor, "nnz"]) -> None:
        """Move the threshold towards the smallest positive activation of all ranks, without waiting for the device."""
        positive = torch.where(values > 0, values.double(), torch.inf)
        smallest = self.execution.ranks.least(torch.cat([positive, positive.new_full((1,), torch.inf)]).min())
        seen = smallest.isfinite()
        moved = self.threshold + self.threshold_rate * (smallest - self.threshold)
        self.threshold.copy_(torch.where(seen, torch.where(self.threshold_set, moved, smallest), self.threshold))
        self.threshold_set.logical_or_(seen)

    @torch.no_grad()
    def calibrate_threshold(self, batches: Iterable[Tensor], target_l0: float | None = None) -> float:
        """Set the threshold so that all rows together have a mean L0 of ``target_l0`` (default k); return it.

        Exact: halfway between the activations of rank ``round(target_l0 * rows)`` and the next. batches: inputs
        [n, d_in] as the SAE takes them, read twice, so a one-shot iterator is first kept in memory; otherwise one batch
        at a time.
        Raises UserError for no rows and for a target outside 0..d_sae.
        """
        target = float(self.k if target_l0 is None else target_l0)
        if not 0 < target <= self.d_sae:
            raise UserError(f"target_l0={target}: must lie above 0 and at most at d_sae={self.d_sae}")
        kept = list(batches) if iter(batches) is batches else batches
        value = threshold_for(lambda: (self._blocks(x) for x in kept), target, self.execution.feature_ranks)
        self.threshold.fill_(value)
        self.threshold_set.fill_(True)
        return value

    def _scale_thresholds_(self, factor: Tensor) -> None:
        self.threshold.mul_(factor[0])

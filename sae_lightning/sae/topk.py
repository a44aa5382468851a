"""TopK: each row keeps its k largest pre-activations."""

from typing import Annotated, Literal, get_args

from annotated_types import Ge, Le
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.sae.forms import InitDefaults
from sae_lightning.sae.kernels import GlobalRowTopK, GroupMax, RowTopK, Selector
from sae_lightning.sae.selective import SelectiveAutoencoder

Selection = Literal["topk", "abs_topk", "group_max"]


class TopKSAE(SelectiveAutoencoder):
    """``f = ReLU(TopK_k((x - b_dec) W_enc + b_enc))``, ``y_hat = f W_dec + b_dec``.

    selection:
    - ``topk``:      the k largest of the row, then ReLU
    - ``abs_topk``:  the k largest in absolute value, signs kept (AbsTopK); no ReLU
    - ``group_max``: d_sae / k contiguous features make a group; the largest of each group, then ReLU (GroupMax)

    Trained with SSE / Var(x) + AuxK / 32; unit-norm decoder, tied init, b_dec = geometric median.
    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders". Raises UserError where k does not divide
    d_sae under group_max.
    """

    name = "topk"
    unit_norm_default = True
    init_defaults = InitDefaults("tied", 1.0, "geometric_median")

    def __init__(
        self,
        d_in: PositiveInt,
        d_sae: PositiveInt,
        d_out: PositiveInt | None = None,
        *,
        k: PositiveInt = 32,
        selection: Selection = "topk",
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
        if selection not in get_args(Selection):
            raise UserError(f"selection={selection!r}: must be one of {', '.join(get_args(Selection))}")
        if selection == "group_max" and (k_start is not None or d_sae % k):
            raise UserError(
                f"selection=group_max with k={k}, k_start={k_start}: k must divide d_sae={d_sae} and not anneal"
            )
        self.selection: Selection = selection

    def selector(self, n: int, k: int | None = None) -> Selector:
        k = min(self.k_effective if k is None else k, self.d_sae)
        if self.selection != "group_max":
            signed, ranks = self.selection == "abs_topk", self.execution.feature_ranks
            return RowTopK(k, signed) if ranks.alone else GlobalRowTopK(k, ranks, signed)
        if self.d_sae % k:
            raise UserError(
                f"selection=group_max with k={k}: k must divide d_sae={self.d_sae}; choose another selection"
            )
        return GroupMax(self.d_sae // k)

    def activate(self, values: Float[Tensor, "nnz"]) -> Float[Tensor, "nnz"]:
        return values if self.selection == "abs_topk" else values.relu()

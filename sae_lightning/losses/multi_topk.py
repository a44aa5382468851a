"""Multi-TopK: the same SAE also reconstructs with more features, so its activations mean something beyond the k-th."""

from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Schedule, UserError
from sae_lightning.losses.context import StepContext
from sae_lightning.losses.decoding import decode_with_skip
from sae_lightning.losses.reconstruction import Normalise, squared_error
from sae_lightning.losses.term import LossTerm
from sae_lightning.sae import SparseAutoencoder, TopKSAE
from sae_lightning.sae.selective import SelectiveAutoencoder


class MultiTopK(LossTerm):
    """``mean_token ||y - y_hat_(m k)||^2 / Var(y)``: the error with ``m k`` features, m = 4 (Gao et al. 2024).

    Beside ``reconstruction`` with coefficient 1 the default 1/8 gives their ``L(k) + L(4k) / 8``. The selection is the
    architecture's own (of the batch for batch top-k); k follows its annealing.
    """

    name = "multi_topk"

    def __init__(
        self,
        coefficient: Schedule | float = 1 / 8,
        multiple: Annotated[int, Ge(2)] = 4,
        normalise: Normalise = "variance",
    ) -> None:
        super().__init__(coefficient)
        self.multiple = multiple
        self.normalise = normalise

    def check(self, sae: SparseAutoencoder) -> None:
        if not isinstance(sae, SelectiveAutoencoder):
            raise UserError(f"loss multi_topk with model={sae.name}: it selects no k features; remove the term")
        if isinstance(sae, TopKSAE) and sae.selection == "group_max" and sae.d_sae % (self.multiple * sae.k):
            raise UserError(
                f"loss multi_topk with multiple={self.multiple}: k={sae.k} times it must divide d_sae={sae.d_sae} "
                "under selection=group_max; choose another multiple"
            )

    def compute(self, ctx: StepContext) -> Float[Tensor, ""]:
        sae = ctx.sae
        assert isinstance(sae, SelectiveAutoencoder)
        features = sae.encode_at(ctx.batch.x, self.multiple * sae.k_effective, ctx.out.pre_acts)
        value = squared_error(decode_with_skip(sae, features, ctx.batch.x), ctx.batch.y)
        return value / ctx.target_variance() if self.normalise == "variance" else value

"""Matryoshka: a batch top-k whose first features alone must reconstruct too, at several nested sizes."""

from itertools import accumulate
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, MinLen
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from sae_lightning.core import Features, UserError
from sae_lightning.sae.batch_topk import BatchTopKSAE
from sae_lightning.sae.forms import InitDefaults
from sae_lightning.sae.kernels import gather_features, pattern_of, sparse_decode


class MatryoshkaSAE(BatchTopKSAE):
    """BatchTopK with nested prefixes: ``y_hat_p = sum_{i < size_p} f_i d_i + b_dec`` for each prefix p.

    groups: shares of d_sae of all groups but the last, which has the rest. ``prefix_sizes`` are their running sums;
    the last one is d_sae, so the last reconstruction is the ordinary one. One selection serves all prefixes.

    Trained with the sum over prefixes of SSE + AuxK. Source: Bussmann, Nabeshima, Karvonen, Nanda 2025, "Learning
    multi-level features with matryoshka sparse autoencoders". Raises UserError where no feature is left for a group.
    """

    name = "matryoshka"
    init_defaults = InitDefaults("tied", 1.0, "geometric_median")

    def __init__(
        self,
        d_in: PositiveInt,
        d_sae: PositiveInt,
        d_out: PositiveInt | None = None,
        *,
        k: PositiveInt = 32,
        groups: Annotated[tuple[Annotated[float, Gt(0), Le(1)], ...], MinLen(1)] = (1 / 32, 1 / 16, 1 / 8, 1 / 4),
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
            k=k,
            threshold_rate=threshold_rate,
            k_start=k_start,
            k_anneal=k_anneal,
            rescale_acts_by_decoder_norm=rescale_acts_by_decoder_norm,
            subtract_b_dec=subtract_b_dec,
            unit_norm_decoder=unit_norm_decoder,
            skip=skip,
            layer_norm=layer_norm,
            site_widths=site_widths,
        )
        self.groups = tuple(groups)
        sizes = [int(share * d_sae + 0.5) for share in self.groups]
        sizes.append(d_sae - sum(sizes))
        if min(sizes) < 1:
            raise UserError(
                f"groups={list(self.groups)} of d_sae={d_sae} features have sizes {sizes}: each needs at least one "
                "feature; raise d_sae or choose fewer groups"
            )
        self.prefix_sizes = tuple(accumulate(sizes))

    def prefix_reconstructions(
        self, features: Features, x: Float[Tensor, "n d_in"] | None = None
    ) -> Float[Tensor, "n_prefixes n d_out"]:
        """Return the reconstruction from each prefix, smallest first. x: needed by a skip path only.

        Costs one sparse decode: pairs are put in order of their group and each group is decoded once, then summed up.
        """
        assert features.indices is not None, "batch top-k features are sparse"
        n, n_groups = features.n_rows, len(self.prefix_sizes)
        ends = torch.tensor(self.prefix_sizes, device=features.indices.device)
        place = torch.bucketize(features.indices + self.first, ends, right=True) * n + features.rows
        ordered, order = place.sort(stable=True)
        offsets = torch.searchsorted(ordered, torch.arange(n_groups * n + 1, device=ordered.device))
        pattern = pattern_of(features.indices[order], offsets, self.width)
        values = features.values[order]
        if self.rescale_acts_by_decoder_norm:
            values = values / gather_features(self.decoder_norms(), pattern)
        parts = sparse_decode(values, pattern, self.W_dec, self.execution.memory).view(n_groups, n, self.d_out)
        y_hat = self.over_shards(parts).cumsum(0) + self.b_dec
        if self.W_skip is not None:
            assert x is not None, "the skip path reads x"
            y_hat = y_hat + self._skipped(self._rows(x))
        return self._undo(y_hat, features)

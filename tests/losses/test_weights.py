"""Weights of features in a penalty: the sum of a decoder row's norms over the sites that it writes."""

from typing import Any

import pytest
import torch

from sae_lightning.core import ActivationBatch, UserError
from sae_lightning.losses import L1, StepContext, Tanh
from sae_lightning.losses.weights import DecoderNorm, penalty_weights
from sae_lightning.sae import BatchTopKSAE, StandardSAE

WIDTHS = (4, 6)


def crosscoder(rescale: bool = False, kind: type = StandardSAE) -> StandardSAE | BatchTopKSAE:
    options: dict[str, Any] = {"k": 5} if kind is BatchTopKSAE else {}
    sae = kind(10, 24, site_widths=WIDTHS, rescale_acts_by_decoder_norm=rescale, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return sae.double()


def sum_of_norms(sae: StandardSAE | BatchTopKSAE) -> torch.Tensor:
    return torch.stack([row[:4].square().sum().sqrt() + row[4:].square().sum().sqrt() for row in sae.W_dec])


@pytest.mark.parametrize("kind", [StandardSAE, BatchTopKSAE])
@pytest.mark.parametrize("mode", ["weighted", "detached", "plain"])
def test_sum_over_sites(mode: DecoderNorm, kind: type) -> None:
    sae = crosscoder(kind=kind)
    weights = penalty_weights(sae, mode)
    expected = torch.ones(24).double() if mode == "plain" else sum_of_norms(sae)
    torch.testing.assert_close(weights, expected)
    assert weights.requires_grad == (mode == "weighted")


def test_rescaled_activations_weigh_one_unit_each() -> None:
    sae, plain = crosscoder(rescale=True), crosscoder()
    x = torch.randn(7, 10, generator=torch.Generator().manual_seed(1)).double()
    batch = ActivationBatch(x, x, torch.arange(7))
    # ReLU(z N) at weight 1 is ReLU(z) at weight N: the two forms of one crosscoder have one penalty.
    values = [L1().compute(StepContext(batch, s(x), s, torch.zeros(24, dtype=torch.bool))) for s in (sae, plain)]
    torch.testing.assert_close(*values)
    naive = (plain(x).features.dense() * sum_of_norms(plain)).sum(1).mean()
    torch.testing.assert_close(values[0], naive)
    tanh = [Tanh().compute(StepContext(batch, s(x), s, torch.zeros(24, dtype=torch.bool))) for s in (sae, plain)]
    torch.testing.assert_close(*tanh)


def test_rescaled_crosscoder_reconstructs_as_its_plain_form() -> None:
    sae, plain = crosscoder(rescale=True), crosscoder()
    x = torch.randn(7, 10, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(sae(x).y_hat, plain(x).y_hat)
    torch.testing.assert_close(sae(x).features.dense(), plain(x).features.dense() * sum_of_norms(plain))


def test_widths_must_add_up() -> None:
    with pytest.raises(UserError, match=r"site_widths=\[3, 4\]: must add up to d_out=10"):
        StandardSAE(10, 24, site_widths=(3, 4))

import pytest
import torch

from sae_lightning.sae import MatryoshkaSAE
from tests.sae.naive_sae import build


def test_default_groups():
    assert MatryoshkaSAE(4, 4608, k=4).prefix_sizes == (144, 432, 1008, 2160, 4608)


@pytest.mark.parametrize(
    "options", [{}, {"rescale_acts_by_decoder_norm": True}, {"skip": True}, {"layer_norm": True}], ids=str
)
def test_prefixes_reconstruct_from_their_features_alone(options):
    sae = build("matryoshka", **options).double()
    x = torch.randn(30, 12, generator=torch.Generator().manual_seed(0)).double()
    out = sae(x)
    prefixes = sae.prefix_reconstructions(out.features, x)
    assert prefixes.shape == (3, 30, 12)
    torch.testing.assert_close(prefixes[-1], out.y_hat)
    weight = torch.randn(prefixes.shape, generator=torch.Generator().manual_seed(1)).double()
    (prefixes * weight).sum().backward()
    gradients = {name: p.grad.clone() for name, p in sae.named_parameters()}
    sae.zero_grad()

    dense = sae(x)
    f = dense.features.dense()
    norms = sae.decoder_norms() if sae.rescale_acts_by_decoder_norm else 1.0
    total = 0.0
    for size, prefix, w in zip(sae.prefix_sizes, prefixes, weight, strict=True):
        rows = sae._rows(x)
        y = (f[:, :size] / (norms if isinstance(norms, float) else norms[:size])) @ sae.W_dec[:size] + sae.b_dec
        if sae.W_skip is not None:
            y = y + rows.centred @ sae.W_skip
        if sae.layer_norm:
            y = y * rows.std + rows.mean
        torch.testing.assert_close(prefix, y)
        total = total + (y * w).sum()
    total.backward()
    for name, p in sae.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-9, atol=1e-9, msg=name)

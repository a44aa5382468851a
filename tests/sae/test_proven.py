"""The narrow product at inference: the same features as the whole one, whatever the numbers."""

import pytest
import torch

from sae_lightning.core import torch_generator
from sae_lightning.sae import BatchTopKSAE, MatryoshkaSAE, SparseAutoencoder, StandardSAE, TopKSAE, initialise
from sae_lightning.sae.proven import ProvenEncoder, _exceeds


def batch_topk(seed: int, scale: float = 1.0, shift: float = 0.0, d_in: int = 48, d_sae: int = 400) -> BatchTopKSAE:
    sae = BatchTopKSAE(d_in, d_sae, k=6)
    generator = torch_generator(seed)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(d_in, d_sae, generator=generator) * torch.rand(d_sae, generator=generator))
        sae.b_enc.copy_(scale * torch.randn(d_sae, generator=generator))
        sae.b_dec.copy_(shift * torch.randn(d_in, generator=generator))
    return sae.eval()


def rows(n: int, sae: SparseAutoencoder, scale: float, seed: int) -> torch.Tensor:
    generator = torch_generator(seed, "rows")
    norms = torch.exp(torch.randn(n, 1, generator=generator))
    return scale * norms * torch.randn(n, sae.d_in, generator=generator) + sae.b_dec.detach()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-3, 0.0), (300.0, 40.0)])
@pytest.mark.parametrize("share", [0.5, 0.05, 0.002])
def test_the_same_features_and_activations(seed: int, scale: float, shift: float, share: float) -> None:
    sae = batch_topk(seed, scale, shift)
    x = rows(300, sae, scale, seed)
    z = sae.pre_acts(x).detach()
    # A threshold in the middle of many values, halfway between two so that no last bit decides.
    order = z.flatten().sort(descending=True).values.double()
    at = int(share * len(order))
    sae.threshold.fill_(float((order[at] + order[at + 1]) / 2))
    wanted = sae.encode(x).dense()
    encoder = ProvenEncoder(sae)
    assert encoder.narrow
    found = encoder.encode(x)
    near = (z.double() - sae.threshold).abs() <= 1e-5 * z.abs().max()
    differs = (found.dense() != 0) != (wanted != 0)
    assert not (differs & ~near).any()
    both = (found.dense() != 0) & (wanted != 0)
    assert torch.allclose(found.dense()[both], wanted[both], rtol=1e-5, atol=1e-6 * float(z.abs().max()))
    assert found.n_rows == len(x)
    assert found.offsets is not None
    assert (found.values != 0).all()
    assert found.offsets[-1] == len(found.values)


@pytest.mark.parametrize("seed", range(20))
def test_no_bar_cuts_off_what_exceeds_the_threshold(seed: int) -> None:
    """The bound itself: what the whole product puts above the threshold, the narrow one puts above the bar."""
    sae = batch_topk(seed)
    x = rows(200, sae, 10.0 ** (seed % 5 - 2), seed)
    encoder = ProvenEncoder(sae)
    z = sae.pre_acts(x).detach()
    centred = x - sae.b_dec.detach()
    bias = sae.b_enc.detach().to(torch.bfloat16)
    narrow = torch.addmm(bias, centred.to(torch.bfloat16), sae.W_enc.detach().to(torch.bfloat16))
    for threshold in z.flatten().quantile(torch.tensor([0.01, 0.3, 0.9, 0.999])).tolist():
        bars = encoder._bars(centred, centred.to(torch.bfloat16), threshold)
        assert (narrow > bars)[z > threshold].all()
        assert torch.equal(_exceeds(narrow, bars), narrow > bars)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sae = batch_topk(0)
    sae.threshold.fill_(2.0)
    x = rows(100, sae, 1.0, 1)
    whole = ProvenEncoder(sae).encode(x)
    monkeypatch.setattr("sae_lightning.sae.kernels.product.Execution.width", lambda *_: 77)
    cut = ProvenEncoder(sae).encode(x)
    assert torch.equal(whole.dense(), cut.dense())


@pytest.mark.parametrize("kind", [TopKSAE, StandardSAE, MatryoshkaSAE])
def test_what_has_no_one_threshold_is_encoded_as_ever(kind: type[SparseAutoencoder]) -> None:
    sae = kind(16, 64)
    x = torch.randn(32, 16, generator=torch_generator(3))
    initialise(sae, x)
    sae.eval()
    encoder = ProvenEncoder(sae)
    assert encoder.narrow == (kind is MatryoshkaSAE)
    assert torch.allclose(encoder.encode(x).dense(), sae.encode(x).dense(), atol=1e-5)
    assert encoder.encode(x[:0]).n_rows == 0

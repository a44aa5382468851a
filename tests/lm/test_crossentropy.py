import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from sae_lightning.lm import crossentropy, kl, loss, predicted


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 19, generator=generator) * 4
    other = torch.randn(3, 7, 19, generator=generator) * 4
    tokens = torch.randint(0, 19, (3, 7), generator=generator)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 5:] = False
    return logits, other, tokens, mask


def test_loss_is_torch_cross_entropy(data, monkeypatch):
    logits, _, tokens, mask = data
    naive = cross_entropy(logits[:, :-1].double().reshape(-1, 19), tokens[:, 1:].reshape(-1), reduction="none")
    whole = loss(logits, tokens)
    torch.testing.assert_close(whole.double(), naive.view(3, 6), rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(crossentropy, "_CHUNK_ELEMENTS", 19 * 4)
    assert torch.equal(loss(logits, tokens), whole), "chunks change nothing"
    masked = loss(logits, tokens, mask)
    assert (masked[1, 4:] == 0).all()
    assert torch.equal(masked[predicted(mask)], whole[predicted(mask)])


def test_kl_is_torch_kl(data):
    logits, other, _, mask = data
    naive = kl_div(
        other.double().log_softmax(-1), logits.double().log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    torch.testing.assert_close(kl(logits, other).double(), naive, rtol=1e-5, atol=1e-6)
    assert float(kl(logits, logits).abs().max()) == 0.0
    assert (kl(logits, other, mask)[~mask] == 0).all()


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]]])
    assert torch.isfinite(loss(logits, torch.tensor([[0, 1]]))).all()
    assert torch.isfinite(kl(logits, logits.flip(-1))).all()


def test_gradients_flow(data):
    logits, other, tokens, _ = data
    other = other.clone().requires_grad_()
    (kl(logits, other).sum() + loss(other, tokens).sum()).backward()
    assert other.grad is not None
    assert float(other.grad.abs().sum()) > 0


def test_bf16_logits_are_summed_in_float32(data):
    logits, _, tokens, _ = data
    half = logits.bfloat16()
    torch.testing.assert_close(loss(half, tokens), loss(half.float(), tokens), rtol=0, atol=0)

"""Runs through the language model against runs of the Hugging Face model with a hook of its own."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sae_lightning.activations import Harvester, MaskPolicy, WindowSource
from sae_lightning.core import ActivationBatch, Sites, WindowBatch
from sae_lightning.lm import FrozenLM, resume_site
from sae_lightning.losses import BlockMSE, LogitKL, StepContext, Through
from sae_lightning.sae import StandardSAE
from sae_lightning.tokens import EpochOrder, ListSource, Windows, byte_tokenizer, write_tokens
from sae_lightning.training.downstream import Downstream
from tests.lm.models import random_model, with_twin

SITES = {
    "resid": ("blocks.0.hook_resid_post", "model.layers.0"),
    "mlp": ("blocks.1.hook_mlp_out", "model.layers.1.mlp"),
    "first": ("blocks.0.hook_mlp_out", "model.layers.0.mlp"),
}
LATER = "blocks.2.hook_resid_post"


def batch_of(lm: FrozenLM, folder: Path, site: str) -> WindowBatch:
    texts = [f"text {n}: " + "a river of seven stones " * (n % 3 + 1) for n in range(20)]
    store = write_tokens(ListSource(texts), byte_tokenizer(), folder / "t.bin", vocab_size=257)
    windows = Windows(store, "train", context_length=16, separator_id=0, seed=0)
    harvester = Harvester(lm, Sites((site,), (site,)), windows, MaskPolicy((0,), norm_multiple=None), micro_batch=3)
    order = EpochOrder(len(windows), 0)
    return WindowSource(harvester, order, batch_size=48, start=resume_site([site])).next()


def by_hand(batch: WindowBatch, rows: Tensor | None, path: str) -> tuple[Tensor, Tensor]:
    """Return logits and the last block's output of the plain model with ``rows`` written by a hook."""
    model = random_model("llama")
    modules = dict(model.named_modules())
    seen: list[Tensor] = []

    def write(_module, _args, out):
        hidden = out[0] if isinstance(out, tuple) else out
        if rows is None:
            return None
        new = hidden.clone()
        new[batch.keep] = rows
        return (new, *out[1:]) if isinstance(out, tuple) else new

    handles = [
        modules[path].register_forward_hook(write),
        modules["model.layers.2"].register_forward_hook(
            lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)
        ),
    ]
    logits = model(input_ids=batch.windows.tokens, use_cache=False).logits
    for handle in handles:
        handle.remove()
    return logits, seen[0]


def context(batch: WindowBatch, downstream: Downstream, rows: Tensor) -> StepContext:
    sae = StandardSAE(batch.x.shape[1], 8)
    through = Through(downstream.clean(batch), downstream.spliced(batch, rows), batch.keep)
    plain = ActivationBatch(batch.x, batch.y, batch.token_index)
    return StepContext(plain, sae(batch.x), sae, torch.zeros(8, dtype=torch.bool), through=through)


@pytest.mark.parametrize("kind", list(SITES))
def test_equals_the_hugging_face_model_with_a_hook(kind: str, tmp_path: Path) -> None:
    site, path = SITES[kind]
    lm = with_twin("llama")[0]
    batch = batch_of(lm, tmp_path, site)
    downstream = Downstream(lm, [site], resume_site([site]), [LATER])
    noise = torch.randn(batch.y.shape, generator=torch.Generator().manual_seed(0))
    rows = (batch.y + 0.3 * batch.y.std() * noise).requires_grad_()
    ctx = context(batch, downstream, rows)

    clean, b = by_hand(batch, None, path)
    own = rows.detach().clone().requires_grad_()
    spliced, b_hat = by_hand(batch, own, path)
    p, q = (value[batch.keep].log_softmax(-1) for value in (clean.detach(), spliced))
    kl = functional.kl_div(q, p, log_target=True, reduction="batchmean")
    b, b_hat = b[batch.keep].detach(), b_hat[batch.keep]
    mse = (b_hat - b).square().sum(-1).mean() / (b - b.mean(0)).square().sum(-1).mean()

    measured = LogitKL().compute(ctx), BlockMSE().compute(ctx)
    assert float(kl.detach()) > 1e-3
    torch.testing.assert_close(measured[0], kl, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(measured[1], mse, atol=1e-5, rtol=1e-5)
    (measured[0] + measured[1]).backward()
    (kl + mse).backward()
    torch.testing.assert_close(rows.grad, own.grad, atol=1e-5, rtol=1e-3)
    assert rows.grad is not None
    assert float(rows.grad.norm()) > 0


@pytest.mark.parametrize("kind", list(SITES))
def test_the_identity_costs_exactly_nothing(kind: str, tmp_path: Path) -> None:
    site, _ = SITES[kind]
    lm = with_twin("llama")[0]
    batch = batch_of(lm, tmp_path, site)
    ctx = context(batch, Downstream(lm, [site], resume_site([site]), [LATER]), batch.y)
    assert float(LogitKL().compute(ctx)) == 0.0
    assert float(BlockMSE().compute(ctx)) == 0.0


def test_gradients_pass_finite_differences(tmp_path: Path) -> None:
    site, _ = SITES["resid"]
    lm = with_twin("llama")[0]
    batch = batch_of(lm, tmp_path, site)
    downstream = Downstream(lm, [site], resume_site([site]), [LATER])
    generator = torch.Generator().manual_seed(1)
    rows = batch.y + 0.5 * batch.y.std() * torch.randn(batch.y.shape, generator=generator)
    for term in (LogitKL(), LogitKL(direction="reverse"), BlockMSE()):
        at = rows.clone().requires_grad_()
        term.compute(context(batch, downstream, at)).backward()
        assert at.grad is not None
        direction = at.grad / at.grad.norm()
        step = 0.02
        up, down = (float(term.compute(context(batch, downstream, rows + s * direction))) for s in (step, -step))
        assert (up - down) / (2 * step) == pytest.approx(float(at.grad.norm()), rel=0.02)


def test_masked_positions_keep_the_clean_activation(tmp_path: Path) -> None:
    site, _ = SITES["resid"]
    lm = with_twin("llama")[0]
    batch = batch_of(lm, tmp_path, site)
    downstream = Downstream(lm, [site], resume_site([site]))
    keep = batch.keep.clone()
    keep[1:] = False  # nothing is written into the other windows
    fewer = WindowBatch(
        batch.x[: int(keep.sum())], batch.y[: int(keep.sum())], batch.token_index[: int(keep.sum())],
        batch.windows, keep, batch.written, batch.below,
    )  # fmt: skip
    spliced, clean = downstream.spliced(fewer, torch.zeros_like(fewer.y)), downstream.clean(fewer)
    assert torch.equal(spliced.logits[1:], clean.logits[1:])
    assert not torch.equal(spliced.logits[0], clean.logits[0])


def test_no_gradient_reaches_the_model(tmp_path: Path) -> None:
    site, _ = SITES["resid"]
    lm = with_twin("llama")[0]
    batch = batch_of(lm, tmp_path, site)
    downstream = Downstream(lm, [site], resume_site([site]))
    rows = (batch.y * 0.9).requires_grad_()
    downstream.spliced(batch, rows).logits.sum().backward()
    assert rows.grad is not None
    assert all(weight.grad is None for weight in lm.bridge.original_model.parameters())

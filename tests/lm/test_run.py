"""Runs with something else written: as Hugging Face's own modules give them, midway to the bit, with gradients."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sae_lightning.lm import FrozenLM
from sae_lightning.lm.bridge import hugging_face_bridge
from sae_lightning.tokens import byte_tokenizer
from tests.lm.models import KINDS, random_model, with_twin
from tests.lm.test_reader import no_bridge

TOKENS = torch.randint(0, 256, (3, 40), generator=torch.Generator().manual_seed(0))
KEEP = torch.rand(3, 40, generator=torch.Generator().manual_seed(1)) > 0.3
RESID, LATER, MLP_IN, MLP_OUT = (
    "blocks.1.hook_resid_post",
    "blocks.2.hook_resid_post",
    "blocks.1.mlp.hook_in",
    "blocks.1.hook_mlp_out",
)
BLOCKS = {"gpt2": "transformer.h", "neox": "gpt_neox.layers"}


def by_hand(
    model: nn.Module, path: str, change: Callable[[Tensor], Tensor], seen: str, *, before: bool = False
) -> tuple[Tensor, Tensor]:
    """Return (logits, what the module at ``seen`` gives) of the eager model with one value changed."""
    kept: list[Tensor] = []

    def first(value):
        return value[0] if isinstance(value, tuple) else value

    module = model.get_submodule(path)
    if before:
        handle = module.register_forward_pre_hook(lambda _m, args: (change(args[0]), *args[1:]))
    else:
        handle = module.register_forward_hook(
            lambda _m, _a, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)
        )
    other = model.get_submodule(seen).register_forward_hook(lambda _m, _a, out: kept.append(first(out)))
    logits = model(TOKENS, use_cache=False).logits
    handle.remove()
    other.remove()
    return logits, kept[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("site", "module", "before"), [(RESID, "", False), (MLP_IN, ".mlp", True)])
def test_an_edit_is_what_hugging_faces_own_modules_make_of_it(kind, site, module, before, monkeypatch) -> None:
    lm, _ = with_twin(kind)
    blocks = BLOCKS.get(kind, "model.layers")
    other = torch.randn(3, 40, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        change = lambda x: torch.where(KEEP[..., None], other, x)  # noqa: E731
        logits, seen = by_hand(random_model(kind), f"{blocks}.1{module}", change, f"{blocks}.2", before=before)
    lm.run(TOKENS, {site: other}, sites=[LATER, site])  # the trial
    no_bridge(lm, monkeypatch)
    ran = lm.run(TOKENS, {site: other}, keep=KEEP, sites=[LATER, site])
    torch.testing.assert_close(ran.logits, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ran.seen[LATER], seen, rtol=1e-4, atol=1e-4)


def test_what_is_seen_is_seen_after_it_was_written() -> None:
    lm, _ = with_twin("llama")
    zeros = torch.zeros(3, 40, 32)
    ran = lm.run(TOKENS, {RESID: zeros}, keep=KEEP, sites=[RESID])
    clean = lm.activations(TOKENS, [RESID])[RESID]
    assert torch.equal(ran.seen[RESID], torch.where(KEEP[..., None], zeros, clean))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_identity_edits_and_midway_starts_change_no_bit(kind, dtype) -> None:
    lm, _ = with_twin(kind, dtype)
    clean = lm.run(TOKENS, sites=[LATER])
    read = lm.activations(TOKENS, [RESID, MLP_OUT])
    assert torch.equal(clean.logits, lm.logits(TOKENS))
    for site, value in read.items():
        for start in (None, ("blocks.0.hook_resid_post", lm.activations(TOKENS, [s := "blocks.0.hook_resid_post"])[s])):
            ran = lm.run(TOKENS, {site: value}, keep=KEEP, start=start, sites=[LATER])
            assert torch.equal(ran.logits, clean.logits), (site, start is None)
            assert torch.equal(ran.seen[LATER], clean.seen[LATER])
    assert torch.equal(lm.logits(TOKENS.flip(1), start=(RESID, read[RESID])), clean.logits), "it starts there"
    assert torch.equal(lm.logits(TOKENS), clean.logits), "the lower blocks are back, no hook stays"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("site", [RESID, MLP_OUT, MLP_IN])
def test_gradients_are_those_of_the_eager_model_and_reach_no_weight(site, dtype) -> None:
    lm, twin = with_twin("llama", dtype)
    start = "blocks.0.hook_resid_post"
    clean = lm.activations(TOKENS, [site, start])
    rows = (0.9 * clean[site].float()).requires_grad_()
    frozen = lm.run(TOKENS, {site: rows}, keep=KEEP, start=(start, clean[start]), sites=[LATER])
    ran = lm.run(TOKENS, {site: rows}, keep=KEEP, start=(start, clean[start]), sites=[LATER], grad=True)
    assert torch.equal(ran.logits, frozen.logits), "the same arithmetic with gradients and without"
    assert not frozen.logits.requires_grad
    assert not frozen.seen[LATER].requires_grad
    (ran.logits.float().logsumexp(-1).mean() + ran.seen[LATER].float().square().mean()).backward()
    assert rows.grad is not None
    assert not rows.grad[~KEEP].any(), "where the clean activation stays nothing is asked of a replacement"
    model = random_model("llama").to(dtype)
    theirs = rows.detach().clone().requires_grad_()
    path = {RESID: "model.layers.1", MLP_OUT: "model.layers.1.mlp", MLP_IN: "model.layers.1.mlp"}[site]
    change = lambda x: torch.where(KEEP[..., None], theirs.to(dtype), x)  # noqa: E731
    logits, seen = by_hand(model, path, change, "model.layers.2", before=site == MLP_IN)
    (logits.float().logsumexp(-1).mean() + seen.float().square().mean()).backward()
    assert theirs.grad is not None
    off = (rows.grad - theirs.grad).norm() / theirs.grad.norm()
    assert off < (1e-5 if dtype == torch.float32 else 0.1)
    weights = [*twin.parameters(), *lm.model.parameters()]
    assert all(weight.grad is None and not weight.requires_grad for weight in weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_that_comes_out_otherwise_goes_through_the_bridge_and_is_said_once(dtype, caplog) -> None:
    lm, twin = with_twin("llama", dtype)
    alone = FrozenLM(hugging_face_bridge(random_model("llama").to(dtype), "llama"), byte_tokenizer(), name="alone")
    twin.get_submodule("model.layers.2.mlp").register_forward_hook(lambda _module, _args, out: out * 1.5)
    zeros = torch.zeros(3, 40, 32)
    with caplog.at_level(logging.WARNING):
        ran = [lm.run(tokens, {RESID: zeros}, keep=KEEP, sites=[LATER]) for tokens in (TOKENS, TOKENS.flip(0))]
    for tokens, got in zip((TOKENS, TOKENS.flip(0)), ran, strict=True):
        want = alone.run(tokens, {RESID: zeros}, keep=KEEP, sites=[LATER])
        assert torch.equal(got.logits, want.logits)
        assert torch.equal(got.seen[LATER], want.seen[LATER])
    (line,) = caplog.messages
    assert f"runs that write {RESID} go through the bridge" in line


def test_a_model_whose_blocks_need_more_than_the_stream_is_not_begun_midway(caplog) -> None:
    """A block that looks at what an earlier one computed besides its output."""
    lm, twin = with_twin("llama")
    noted: dict[str, Tensor] = {}
    for tree in (twin, lm.model):
        norm = "model.layers.0.post_attention_layernorm"
        tree.get_submodule(norm).register_forward_hook(lambda _m, _a, out: noted.update(v=out))
        tree.get_submodule("model.norm").register_forward_hook(
            lambda _m, _a, out: out + noted.pop("v", torch.zeros(()))
        )
    clean = lm.activations(TOKENS, [RESID])[RESID]
    lm.logits(TOKENS, start=(RESID, clean))
    assert "is not its whole run" in caplog.text


def test_runs_take_module_paths_on_both_ways(tiny, caplog) -> None:
    llama, _ = with_twin("llama")
    for lm, block in ((llama, "model.layers.1"), (tiny, "layers.1")):
        names = {f"{block}": RESID, f"{block}.mlp": MLP_OUT, f"{block}.mlp:in": MLP_IN}
        read = lm.activations(TOKENS, [*names, *names.values()])
        half = {path: value * 0.5 for path, value in read.items()}
        for path, hook in names.items():
            assert torch.equal(read[path], read[hook]), path
            assert lm.site_width(path) == 32
            want = lm.run(TOKENS, {hook: half[hook]}, keep=KEEP, sites=[LATER])
            got = lm.run(TOKENS, {path: half[path]}, keep=KEEP, sites=[LATER])
            assert torch.equal(got.logits, want.logits), path
            assert torch.equal(got.seen[LATER], want.seen[LATER])
    assert not caplog.records


def test_no_hook_stays_on_the_plain_model() -> None:
    lm, twin = with_twin("llama")
    lm.run(TOKENS, {MLP_IN: torch.zeros(3, 40, 32), RESID: lambda x: x}, sites=[LATER])
    with pytest.raises(ValueError, match="shape"):
        lm.run(TOKENS, {MLP_IN: torch.zeros(3, 40, 31)})
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in twin.modules())
    assert all("forward" not in vars(module) for module in twin.modules())

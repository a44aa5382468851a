"""Reading past the bridge: the same activations, never another model's, and nothing else changes."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sae_lightning.core import UserError
from sae_lightning.lm import FrozenLM, LazyLM
from sae_lightning.lm.bridge import hugging_face_bridge
from sae_lightning.lm.plain import plain_twin
from sae_lightning.tokens import byte_tokenizer
from tests.lm.models import KINDS, random_model, with_twin

TOKENS = torch.randint(0, 256, (3, 40), generator=torch.Generator().manual_seed(0))
NAMES = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out", "attn.hook_z")
RESID = "blocks.1.hook_resid_post"
INNER = "blocks.1.ln1.hook_normalized"


def sites_of(lm: FrozenLM) -> list[str]:
    return [site for layer in range(3) for name in NAMES if (site := f"blocks.{layer}.{name}") in lm.sites()]


def no_bridge(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whatever still goes through the bridge fail."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("read through the bridge")

    monkeypatch.setattr(lm.bridge, "run_with_hooks", refuse)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_modules_give_is_read_past_the_bridge_and_the_same(kind, dtype, monkeypatch, caplog) -> None:
    lm, twin = with_twin(kind, dtype)
    sites = sites_of(lm)
    assert len(sites) >= 15
    # In bfloat16 random tokens of the trial and these ones differ by as much as rounding makes of three layers.
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
    bridge = {site: value.flatten(2) for site, value in lm._reader.through_bridge(TOKENS, sites).items()}
    lm.activations(TOKENS, sites)
    no_bridge(lm, monkeypatch)
    got = lm.activations(TOKENS, sites)
    assert list(got) == sites
    for site, value in got.items():
        torch.testing.assert_close(value, bridge[site], **close)
        assert torch.equal(lm.activations(TOKENS, [site])[site], value), "other sites change nothing"
        assert not value.requires_grad
        assert not value.is_inference()
    assert not caplog.records
    assert (twin.config._attn_implementation == "sdpa") == (kind != "gemma2"), "gemma2 caps its scores"


def _everywhere(twin: nn.Module) -> None:
    for module in twin.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def _far(twin: nn.Module) -> None:
    twin.config.sliding_window = 9


def _uncapped(twin: nn.Module) -> None:
    for module in twin.modules():
        if hasattr(module, "attn_logit_softcapping"):
            module.attn_logit_softcapping = 2.2


def _shifted(twin: nn.Module) -> None:
    twin.transformer.wpe.register_forward_pre_hook(lambda _module, args: (args[0] + 1,))


def _turned(twin: nn.Module) -> None:
    rotary = twin.model.rotary_emb
    rotary.inv_freq = rotary.inv_freq * 1.02


def _padded(twin: nn.Module) -> None:
    """A mask that takes token 0 for padding, made from the tokens."""
    twin.register_forward_pre_hook(
        lambda _module, args, kwargs: (args, {**kwargs, "attention_mask": (kwargs["input_ids"] != 0).long()}),
        with_kwargs=True,
    )


def _broken(twin: nn.Module) -> None:
    def fail(*_args):
        raise RuntimeError("no such call")

    twin.register_forward_pre_hook(fail)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "harm"),
    [
        ("llama", _everywhere),
        ("mistral", _far),
        ("gemma2", _far),
        ("gemma2", _uncapped),
        ("gpt2", _shifted),
        ("llama", _turned),
        ("llama", _padded),
        ("llama", _broken),
    ],
)
def test_another_model_is_caught_and_said_once(kind, harm: Callable[[nn.Module], None], dtype, caplog) -> None:
    lm, twin = with_twin(kind, dtype)
    harm(twin)
    site = "blocks.2.hook_resid_post"
    with caplog.at_level(logging.WARNING):
        got = lm.activations(TOKENS, [site])[site]
        again = lm.activations(TOKENS.flip(0), [site])[site]
    assert torch.equal(got, lm._reader.through_bridge(TOKENS, [site])[site])
    assert torch.equal(again, lm._reader.through_bridge(TOKENS.flip(0), [site])[site])
    (line,) = caplog.messages
    assert f"{site} is read through the bridge, which is slower" in line
    assert lm.dtype == got.dtype == dtype


def test_only_the_sites_above_a_difference_fall_back(caplog) -> None:
    lm, twin = with_twin("llama")
    twin.model.layers[1].mlp.register_forward_hook(lambda _module, _args, out: out * 1.5)
    sites = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    got = lm.activations(TOKENS, sites)
    assert [line.split()[2] for line in caplog.messages] == sites[1:]
    bridge = lm._reader.through_bridge(TOKENS, sites)
    assert torch.equal(got[sites[2]], bridge[sites[2]])
    assert not torch.equal(got[sites[0]], bridge[sites[0]]), "sdpa rounds in another order"


def test_what_no_module_gives_goes_through_the_bridge_beside_the_others(caplog) -> None:
    lm, _ = with_twin("llama")
    got = lm.activations(TOKENS, [INNER, RESID])
    assert list(got) == [INNER, RESID]
    assert torch.equal(got[INNER], lm._reader.through_bridge(TOKENS, [INNER])[INNER])
    assert torch.equal(got[RESID], lm.activations(TOKENS, [RESID])[RESID])
    (line,) = caplog.messages
    assert INNER in line
    assert "no module" in line


def test_it_runs_no_further_than_the_highest_site_and_leaves_no_hook() -> None:
    lm, twin = with_twin("llama")
    lm.activations(TOKENS, [RESID, "blocks.0.hook_mlp_out"])
    ran: list[int] = []
    handles = [
        layer.register_forward_pre_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(twin.model.layers)
    ]
    lm.activations(TOKENS, ["blocks.0.hook_mlp_out", RESID])
    lm.activations(TOKENS, ["blocks.0.hook_mlp_out"])
    assert ran == [0, 1, 0]
    for handle in handles:
        handle.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in twin.modules())


class _Operations(TorchDispatchMode):
    """Writes down every operation on tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2"])
def test_it_does_what_the_model_cut_off_there_does_and_nothing_more(kind) -> None:
    lm, _ = with_twin(kind)
    lm.activations(TOKENS, [RESID])  # the trial
    with _Operations() as ours:
        value = lm.activations(TOKENS, [RESID])[RESID]
    cut = random_model(kind).model
    cut.set_attn_implementation("eager" if kind == "gemma2" else "sdpa")
    cut.layers, cut.norm = cut.layers[:2], nn.Identity()
    with torch.no_grad(), _Operations() as plain:
        hidden = cut(input_ids=TOKENS, use_cache=False).last_hidden_state
    assert torch.equal(value, hidden)
    free = ("detach", "view", "alias")  # what is looked at once more, not computed
    names = [[name for name in seen.names if not any(word in name for word in free)] for seen in (ours, plain)]
    assert names[0] == names[1]
    assert len(names[0]) > 50


@pytest.mark.parametrize("kind", KINDS)
def test_edited_runs_are_what_they_are_through_the_bridge(kind) -> None:
    lm, _ = with_twin(kind)
    alone = FrozenLM(hugging_face_bridge(random_model(kind), kind), byte_tokenizer(), name=kind)
    clean = lm.activations(TOKENS, [RESID])[RESID]
    keep = torch.rand(3, 40, generator=torch.Generator().manual_seed(1)) > 0.3
    edit = {RESID: clean * 0.5}
    for arguments in ({}, {"edits": edit}, {"edits": edit, "keep": keep, "start": (RESID, clean)}):
        ours, theirs = lm.logits(TOKENS, **arguments), alone.logits(TOKENS, **arguments)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_it_reads_the_very_weights_of_the_bridge(kind) -> None:
    lm, twin = with_twin(kind, torch.bfloat16)
    known = {id(tensor) for tensor in (*lm.bridge.original_model.parameters(), *lm.bridge.original_model.buffers())}
    assert all(id(tensor) in known for tensor in (*twin.parameters(), *twin.buffers()))
    assert not any(weight.requires_grad for weight in twin.parameters())
    assert not any(module.training for module in twin.modules())
    before = lm.activations(TOKENS, [RESID])[RESID]
    for weight in lm.bridge.original_model.parameters():
        weight.data = weight.data.float()
    lm.dtype = torch.float32
    after = lm.activations(TOKENS, [RESID])[RESID]
    assert after.dtype == torch.float32
    assert not torch.equal(before.float(), after)
    torch.testing.assert_close(after, lm._reader.through_bridge(TOKENS, [RESID])[RESID], rtol=1e-4, atol=1e-4)


def test_what_lies_behind_a_position_says_nothing_to_it() -> None:
    """A right-padded window reads like the text alone, whatever it is padded with."""
    for kind in KINDS:
        lm, _ = with_twin(kind)
        padded = TOKENS.clone()
        padded[:, 25:] = 7
        whole, cut = (lm.activations(tokens, [RESID])[RESID] for tokens in (TOKENS, padded))
        torch.testing.assert_close(whole[:, :25], cut[:, :25], rtol=1e-5, atol=1e-5)
        short = lm.activations(TOKENS[:, :25], [RESID])[RESID]
        torch.testing.assert_close(whole[:, :25], short, rtol=1e-4, atol=1e-4)


def test_threads_see_nothing_of_each_other() -> None:
    lm, _ = with_twin("llama", torch.bfloat16)
    clean = lm.activations(TOKENS[:, :20], [RESID])[RESID]
    logits = lm.logits(TOKENS)
    wrong: list[str] = []

    def read() -> None:
        for length in (20, 21, 20, 22):  # a new length is tried, in float32 too
            got = lm.activations(TOKENS[:, :length], [RESID])[RESID]
            if got.dtype != torch.bfloat16 or (length == 20 and not torch.equal(got, clean)):
                wrong.append("activations")

    def run() -> None:
        for _ in range(4):
            if not torch.equal(lm.logits(TOKENS), logits):
                wrong.append("logits")

    threads = [threading.Thread(target=task) for task in (read, run, read, run)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_model_that_cannot_be_copied_is_read_through_the_bridge(caplog) -> None:
    model = random_model("llama")
    model.handle = threading.Lock()  # pyright: ignore[reportArgumentType] - what deepcopy refuses
    assert plain_twin(model, "odd") is None
    assert "odd" in caplog.text


def test_windows_beyond_the_context_are_refused() -> None:
    lm, _ = with_twin("llama")
    with pytest.raises(UserError, match="at most 64"):
        lm.activations(torch.zeros(1, 65, dtype=torch.int64), [RESID])


def test_a_loaded_model_reads_so_lazily_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setenv("SAE_LIGHTNING_CACHE", str(tmp_path / "cache"))
    random_model("llama").save_pretrained(tmp_path / "model")  # pyright: ignore[reportCallIssue] - of PreTrainedModel
    byte_tokenizer().save_pretrained(tmp_path / "model")
    with_card = LazyLM(str(tmp_path / "model"), dtype="float32")
    lazy, plain = LazyLM(str(tmp_path / "model"), dtype="float32"), with_twin("llama")[0]
    assert with_card.site_width(RESID) == 32
    value = lazy.activations(TOKENS, [RESID])[RESID]
    assert torch.equal(value, plain.activations(TOKENS, [RESID])[RESID])
    no_bridge(lazy, monkeypatch)
    assert torch.equal(value, lazy.activations(TOKENS, [RESID])[RESID])
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]

import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.lm import FrozenLM
from sae_lightning.lm.bridge import hugging_face_bridge
from sae_lightning.tokens import byte_tokenizer

TOKENS = torch.randint(0, 256, (3, 12), generator=torch.Generator().manual_seed(0))
RESID = "blocks.1.hook_resid_post"
SITES = ["blocks.0.hook_resid_pre", RESID, "blocks.2.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.1.attn.hook_z"]


@pytest.fixture(scope="module", params=["native", "llama", "gpt2"])
def lm(request, tiny):
    """The tiny native model, and random Hugging Face models whose hidden states transformers can tell us."""
    if request.param == "native":
        return tiny
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if request.param == "llama":
        config = LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=300,
            max_position_embeddings=64,
            attn_implementation="eager",
        )
        model = LlamaForCausalLM(config)
    else:
        config = GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, vocab_size=300, attn_implementation="eager")
        model = GPT2LMHeadModel(config)
    return FrozenLM(hugging_face_bridge(model.eval(), request.param), byte_tokenizer(), name=request.param)


@pytest.mark.parametrize("lm", ["llama", "gpt2"], indirect=True)
def test_activations_are_hugging_faces_hidden_states(lm):
    model = lm.bridge.original_model
    with torch.no_grad():
        hidden = model(TOKENS, output_hidden_states=True, use_cache=False).hidden_states
    got = lm.activations(TOKENS, ["blocks.0.hook_resid_pre", RESID])
    torch.testing.assert_close(got["blocks.0.hook_resid_pre"], hidden[0])
    torch.testing.assert_close(got[RESID], hidden[2])


def test_activations_have_exactly_the_names_and_shapes_asked_for(lm):
    got = lm.activations(TOKENS, SITES)
    assert list(got) == SITES
    for site, value in got.items():
        assert value.shape == (3, 12, lm.site_width(site)), site
        assert not value.requires_grad
        assert not value.is_inference()
    for site in SITES:
        assert torch.equal(lm.activations(TOKENS, [site])[site], got[site]), "other sites change nothing"


def test_activations_run_no_further_than_the_highest_site(lm):
    ran = []
    sites = [RESID, "blocks.0.hook_mlp_out"]
    lm.activations(TOKENS, sites)  # probes the widths
    blocks = [lm.bridge.blocks[i] for i in range(3)]
    handles = [b.register_forward_pre_hook(lambda *_, i=i: ran.append(i)) for i, b in enumerate(blocks)]
    lm.activations(TOKENS, sites)
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]


def test_identity_edits_change_no_bit(lm):
    clean = lm.logits(TOKENS)
    assert clean.shape == (3, 12, lm.vocab_size)
    for site, value in lm.activations(TOKENS, SITES).items():
        assert torch.equal(lm.logits(TOKENS, {site: value}), clean), site
        assert torch.equal(lm.logits(TOKENS, {site: lambda x: x.clone()}), clean), site
    assert torch.equal(lm.logits(TOKENS), clean), "no hook stays behind"


def test_an_edit_acts_and_keep_limits_it(lm):
    clean = lm.logits(TOKENS)
    zeros = torch.zeros(3, 12, lm.d_model)
    assert not torch.equal(lm.logits(TOKENS, {RESID: zeros}), clean)
    nowhere = torch.zeros(3, 12, dtype=torch.bool)
    assert torch.equal(lm.logits(TOKENS, {RESID: zeros}, keep=nowhere), clean)
    late = nowhere.clone()
    late[1, 6:] = True
    some = lm.logits(TOKENS, {RESID: zeros}, keep=late)
    changed = (some != clean).any(-1)
    assert torch.equal(changed, late), "causal: only edited positions of that window differ"


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_starting_above_a_site_changes_no_bit(lm, layer):
    site = f"blocks.{layer}.hook_resid_post"
    clean = lm.activations(TOKENS, [site])[site]
    assert torch.equal(lm.logits(TOKENS, start=(site, clean)), lm.logits(TOKENS))
    edit = {site: clean * 0.5}
    keep = torch.rand(3, 12, generator=torch.Generator().manual_seed(1)) > 0.3
    whole = lm.logits(TOKENS, edit, keep=keep)
    assert torch.equal(lm.logits(TOKENS, edit, keep=keep, start=(site, clean)), whole)
    assert torch.equal(lm.logits(TOKENS), lm.logits(TOKENS, {})), "the lower blocks are back"
    # It really starts there: what it is given decides, not the tokens.
    assert torch.equal(lm.logits(TOKENS.flip(1), start=(site, clean)), lm.logits(TOKENS))


def test_starting_above_an_edit_is_refused(lm):
    clean = lm.activations(TOKENS, [RESID])[RESID]
    with pytest.raises(ValueError, match="never ran"):
        lm.logits(TOKENS, {"blocks.0.hook_mlp_out": clean}, start=(RESID, clean))
    with pytest.raises(ValueError, match="only a residual site"):
        lm.logits(TOKENS, start=("blocks.0.hook_mlp_out", clean))


def test_gradients_reach_replacements_and_no_weight(lm):
    clean = lm.activations(TOKENS, [RESID])[RESID]
    replacement = (clean * 0.9).requires_grad_()
    lm.loss(lm.logits(TOKENS, {RESID: replacement}, grad=True), TOKENS).mean().backward()
    assert replacement.grad is not None
    assert float(replacement.grad.abs().sum()) > 0
    assert all(p.grad is None and not p.requires_grad for p in lm.bridge.original_model.parameters())
    assert not lm.logits(TOKENS, {RESID: replacement}).requires_grad


def test_is_frozen_and_in_eval_mode(lm):
    assert not isinstance(lm, torch.nn.Module)
    assert not any(module.training for module in lm.bridge.original_model.modules())


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("blocks.1.hook_resid_pots", "did you mean 'blocks.1.hook_resid_post'"),
        ("blocks.7.hook_resid_post", "layers 0 to 2"),
        ("blocks.0.attn.hook_pattern", "one vector per token"),
        ("blocks.0.attn.hook_result", "does not run this hook"),
        ("nonsense", "no such hook"),
    ],
)
def test_bad_sites_are_named(lm, site, message):
    with pytest.raises(UserError, match=message):
        lm.check_site(site)


def test_windows_beyond_the_context_are_refused(lm):
    with pytest.raises(UserError, match="at most 64"):
        lm.logits(torch.zeros(1, 65, dtype=torch.int64))


def test_separators_and_special_ids(tiny):
    assert (tiny.separator_id, tiny.bos_id, tiny.special_ids) == (256, 256, (256,))


def test_bad_dtype_and_device():
    with pytest.raises(UserError, match="did you mean 'bfloat16'"):
        FrozenLM.load("tiny", dtype="bfloat")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not a device"):
        FrozenLM.load("tiny", device="gpuu")

"""How a model reads its residual stream out: against its own logits, whatever its modules are called."""

import pytest
import torch
from torch import nn

from sae_lightning.core import torch_generator
from sae_lightning.lm import FrozenLM
from sae_lightning.lm.readout import NoReadout, find_readout, in_stream
from tests.lm.models import KINDS, UNKNOWN, random_model, save

CENTRED = {"tiny", "gpt2", "neox", "persimmon", "biogpt"}


def with_random_norms(model: nn.Module) -> nn.Module:
    """Give the vectors of a model (norms, biases) values of their own: they start as ones and zeros."""
    generator = torch_generator(0, "tests", "readout")
    for weight in model.parameters():
        if weight.ndim == 1:
            weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


@pytest.fixture(scope="module", params=["tiny", *KINDS, *UNKNOWN])
def kind_and_lm(request, tmp_path_factory) -> tuple[str, FrozenLM]:
    kind = request.param
    if kind == "tiny":
        lm = FrozenLM.load("tiny", dtype="float32", n_layers=2)
        with_random_norms(lm.model)
        return kind, lm
    folder = save(with_random_norms(random_model(kind)), tmp_path_factory.mktemp(kind))
    return kind, FrozenLM.load(folder, dtype="float32")


def test_it_gives_the_models_own_logits(kind_and_lm) -> None:
    kind, lm = kind_and_lm
    readout = find_readout(lm)
    assert readout.centred == (kind in CENTRED)
    assert readout.factor == 1.0
    assert readout.capped == (kind == "gemma2")
    assert float(readout.gamma.std()) > 0.1
    tokens = torch.randint(250, (2, 20), generator=torch_generator(1))
    x = lm.activations(tokens, [readout.site])[readout.site].flatten(0, 1)
    ours = readout.folded(x) / readout.scales(x)[:, None] @ readout.W_U.double().T
    theirs = lm.logits(tokens).flatten(0, 1).double()
    if readout.capped:
        theirs = 30 * torch.atanh(theirs / 30)
    # What is left is beta and the unembedding's bias, the same at every token.
    left = theirs - ours
    assert float((left - left[:1]).abs().max()) < 1e-5


def test_what_is_in_the_stream(kind_and_lm) -> None:
    kind, lm = kind_and_lm
    for site in ("blocks.1.hook_resid_post", "blocks.0.hook_resid_pre"):
        assert in_stream(lm, site)
    block = {"tiny": "layers.1", "gpt2": "transformer.h.1", "neox": "gpt_neox.layers.1", "biogpt": "biogpt.layers.1"}
    path = block.get(kind, "model.layers.1")
    assert in_stream(lm, path)
    assert in_stream(lm, f"{path}:in")
    assert not in_stream(lm, "blocks.1.mlp.hook_in")
    assert not in_stream(lm, f"{path}.mlp")
    assert not in_stream(lm, "blocks.1.hook_nonsense_out")
    # biogpt has no module for its MLP.
    assert in_stream(lm, "blocks.1.hook_mlp_out") == in_stream(lm, "blocks.1.hook_attn_out") == (kind != "biogpt")


def test_a_factor_behind_the_unembedding_and_a_scale_behind_the_norm(tmp_path) -> None:
    lm = FrozenLM.load(save(with_random_norms(random_model("llama")), tmp_path), dtype="float32")
    plain = lm._reader.plain
    assert plain is not None
    model = plain.twin
    handle = model.register_forward_hook(lambda _m, _a, out: setattr(out, "logits", out.logits * 0.25))
    assert find_readout(lm).factor == pytest.approx(0.25)
    handle.remove()
    handle = model.register_forward_hook(lambda _m, _a, out: setattr(out, "logits", out.logits.tanh()))
    assert find_readout(lm).capped
    handle.remove()
    head = model.get_submodule("lm_head")
    handle = head.register_forward_pre_hook(lambda _m, args: (args[0] * 3.0,))
    with pytest.raises(NoReadout, match="no module gives out what its unembedding takes in"):
        find_readout(lm)
    handle.remove()
    model.model.norm.forward = lambda x: x.tanh()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(NoReadout, match=r"model\.norm.* neither a LayerNorm nor an RMSNorm"):
        find_readout(lm)
    model.model.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    readout = find_readout(lm)
    assert readout.norm is None
    assert readout.site == "model.layers.2"
    assert torch.equal(readout.scales(torch.randn(3, 32)), torch.ones(3, dtype=torch.float64))


def test_blocks_that_end_in_a_norm_are_refused(tmp_path) -> None:
    import transformers as hf

    config = hf.OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=300)
    model = with_random_norms(hf.OpenAIGPTLMHeadModel(config)).eval()
    lm = FrozenLM.load(save(model, tmp_path), dtype="float32")
    with pytest.raises(NoReadout, match="its blocks end in a norm"):
        find_readout(lm)

"""Steering the real language model: with a cache as without, by hand as by us, and as it is to the bit."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_lightning.activations import MaskPolicy
from sae_lightning.core import Sites, torch_generator
from sae_lightning.lm import FrozenLM
from sae_lightning.lm.decoding import Decoder
from sae_lightning.lm.standing import stand
from sae_lightning.sae import StandardSAE
from sae_lightning.store import Reader
from sae_lightning.studies.steering.edits import clamp, scale
from sae_lightning.studies.steering.generate import Continuation, generate
from sae_lightning.studies.steering.sampling import Sampling
from sae_lightning.studies.steering.steering import Steering

pytestmark = pytest.mark.lm

RESID, MLP_IN, MLP_OUT = "blocks.9.hook_resid_post", "blocks.9.mlp.hook_in", "blocks.9.hook_mlp_out"
KINDS = {
    "sae": Sites((RESID,), (RESID,)),
    "transcoder": Sites((MLP_IN,), (MLP_OUT,)),
    "crosscoder": Sites(("blocks.8.hook_resid_post", RESID), ("blocks.8.hook_resid_post", RESID)),
}
PROMPT = "The weather in the mountains"
# One length for all: how texts of it are run is tried once.
LENGTH = 14


@pytest.fixture(scope="module")
def wide() -> FrozenLM:
    return FrozenLM.load("smollm2", dtype="float32")


@pytest.fixture(scope="module")
def narrow() -> FrozenLM:
    return FrozenLM.load("smollm2", dtype="bfloat16")


@pytest.fixture(scope="module")
def unsteered(narrow) -> list[Continuation]:
    reader = reader_of(narrow, "sae")
    return generate(reader, reader.cut(PROMPT)[1], None, sampling_of(reader), n=2)


def reader_of(lm: FrozenLM, kind: str) -> Reader:
    """A random SAE whose features add about as much as there is."""
    sites = KINDS[kind]
    n = len(sites.write)
    sae = StandardSAE(576 * n, 256, 576 * n, subtract_b_dec=False, site_widths=(576,) * n if n > 1 else None)
    generator = torch_generator(0, "tests", kind)
    for weight in sae.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=generator) / 24)
    return Reader(lm, sae.eval(), sites, MaskPolicy(lm.special_ids, True, None), 64, 4)


def sampling_of(reader: Reader, **settings: Any) -> Sampling:
    """Settings of texts that are ``LENGTH`` tokens long with the prompt."""
    return Sampling(LENGTH - 1 - len(reader.cut(PROMPT)[1]), **{"seed": 1, **settings})


def strength(reader: Reader) -> float:
    """So much of a feature that the written activation grows by about its own norm."""
    ids = torch.from_numpy(reader.cut(PROMPT)[1])[None]
    site = reader.sites.write[-1]
    seen = reader.lm.run(ids, sites=(site,)).seen[site]
    return float(seen[0, 1:].float().norm(dim=-1).median() / reader.sae.W_dec[3].detach().norm())


def fed(lm: FrozenLM, ids: Tensor, first: int, cached: bool) -> Tensor:
    decoder = Decoder(lm, cached=cached, room=ids.shape[1])
    logits = [decoder.feed(ids[:, :first]).logits]
    logits += [decoder.feed(ids[:, i : i + 1]).logits for i in range(first, ids.shape[1])]
    assert decoder.cached is cached
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_greedy_texts_are_the_same_with_a_cache_and_without(kind, wide) -> None:
    reader = reader_of(wide, kind)
    steering = check_logits(reader, 1e-4)  # of logits around 10
    texts = [
        generate(reader, reader.cut(PROMPT)[1], steering, sampling_of(reader, temperature=0, cached=cached))[0].text
        for cached in (True, False)
    ]
    assert texts[0] == texts[1]


def test_in_bfloat16_logits_are_the_same_up_to_its_rounding(narrow) -> None:
    check_logits(reader_of(narrow, "crosscoder"), 0.05)  # it keeps 8 bits, and 30 blocks round


def check_logits(reader: Reader, allowed: float) -> Steering:
    """Check that logits are those of a whole run, with a cache and without, up to ``allowed`` of the largest."""
    lm = reader.lm
    ids = torch.tensor([[lm.separator_id, *reader.cut(PROMPT + " was cold, and we went home early.")[1]]])[:, :LENGTH]
    assert ids.shape[1] == LENGTH
    steering = Steering(reader, {3: clamp(strength(reader)), 5: scale(0)})
    clean = lm.logits(ids)
    with stand(lm, steering):
        whole = lm.logits(ids)
        ours, theirs = fed(lm, ids, 6, cached=True), fed(lm, ids, 6, cached=False)
    assert (whole - clean)[0, 1:].abs().amax(-1).min() > 0.1, "every token is steered"
    for one in (ours, theirs):
        assert (one.float() - whole.float()).abs().max() / whole.float().abs().max() < allowed
    return steering


@pytest.mark.parametrize("kind", KINDS)
def test_as_it_is_is_the_unsteered_text_to_the_bit(kind, narrow, unsteered) -> None:
    reader = reader_of(narrow, kind)
    ours = generate(reader, reader.cut(PROMPT)[1], Steering(reader, {3: scale(1)}), sampling_of(reader), n=2)
    for one, other in zip(ours, unsteered, strict=True):
        assert one.text == other.text
        assert np.array_equal(one.logprobs, other.logprobs)


@pytest.mark.parametrize("kind", ["sae", "transcoder"])
def test_a_steered_text_is_what_hooks_by_hand_make_of_it(kind, wide) -> None:
    from transformers import AutoModelForCausalLM

    from sae_lightning.lm.embedded import smollm2_folder

    model = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.float32).eval()
    reader = reader_of(wide, kind)
    sae, tokens, value = reader.sae, reader.cut(PROMPT)[1], strength(reader)
    (sample,) = generate(reader, tokens, Steering(reader, {3: clamp(value)}), sampling_of(reader))
    ids = torch.tensor([[reader.start, *tokens, *sample.token_ids]])
    keep = ~torch.isin(ids, torch.tensor(wide.special_ids))
    keep[:, 0] = False
    read: list[Tensor] = []

    def write(_module, _args, out):
        y = out[0] if isinstance(out, tuple) else out
        x = y if kind == "sae" else read[0]
        f = torch.relu(x @ sae.W_enc[:, 3] + sae.b_enc[3])
        new = torch.where(keep[..., None], y + (value - f)[..., None] * sae.W_dec[3], y)
        return (new, *out[1:]) if isinstance(out, tuple) else new

    block = model.get_submodule("model.layers.9" if kind == "sae" else "model.layers.9.mlp")
    block.register_forward_pre_hook(lambda _m, args: read.append(args[0]) if args else None)
    block.register_forward_hook(write)
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0]
    wanted = logits[len(tokens) : -1].double().log_softmax(-1).gather(-1, ids[0, len(tokens) + 1 :, None])[:, 0]
    np.testing.assert_allclose(sample.logprobs, wanted.numpy(), atol=1e-3)

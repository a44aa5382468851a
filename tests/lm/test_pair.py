"""Two models on the same tokens: each as it is by itself."""

import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.lm import FrozenLM, LazyLM, PairedLM, resume_site
from sae_lightning.tokens import byte_tokenizer
from tests.lm.models import random_model, save, with_twin
from tests.lm.test_run import KEEP, TOKENS

SITE = "blocks.1.hook_resid_post"
BOTH = [f"base/{SITE}", f"tuned/{SITE}"]


@pytest.fixture(scope="module")
def pair() -> PairedLM:
    return PairedLM(FrozenLM.load("tiny", dtype="float32", seed=0), FrozenLM.load("tiny", dtype="float32", seed=1))


def test_each_model_is_read_as_it_is_by_itself(pair) -> None:
    got = pair.activations(TOKENS, [BOTH[1], BOTH[0], "tuned/blocks.0.hook_mlp_out"])
    assert list(got) == [BOTH[1], BOTH[0], "tuned/blocks.0.hook_mlp_out"]
    for lm, site in zip((pair.base, pair.tuned), BOTH, strict=True):
        assert torch.equal(got[site], lm.activations(TOKENS, [SITE])[SITE])
        assert pair.site_width(site) == lm.d_model
    assert not torch.equal(*(got[site] for site in BOTH))
    assert set(BOTH) < set(pair.sites())


def test_a_run_is_of_the_model_that_is_named(pair) -> None:
    later = "blocks.2.hook_resid_post"
    for member, lm in (("base", pair.base), ("tuned", pair.tuned)):
        site = f"{member}/{SITE}"
        clean = lm.activations(TOKENS, [SITE])[SITE]
        start = resume_site([site])
        assert start == site
        ran = pair.run(TOKENS, {site: clean * 0.5}, keep=KEEP, start=(start, clean), sites=[f"{member}/{later}"])
        want = lm.run(TOKENS, {SITE: clean * 0.5}, keep=KEEP, sites=[later])
        assert torch.equal(ran.logits, want.logits)
        assert torch.equal(ran.seen[f"{member}/{later}"], want.seen[later])
        rows = (clean * 0.9).requires_grad_()
        pair.logits(TOKENS, {site: rows}, grad=True).logsumexp(-1).mean().backward()
        assert rows.grad is not None
        assert rows.grad.any()
    assert torch.equal(pair.logits(TOKENS), pair.base.logits(TOKENS))
    with pytest.raises(ValueError, match="one run is of one model"):
        pair.run(TOKENS, dict.fromkeys(BOTH, lambda x: x))


def test_what_identifies_it_is_both_models(pair) -> None:
    identity = pair.identity()
    assert identity["tuned"] == pair.tuned.identity()
    assert identity["sha256"] not in (pair.base.identity()["sha256"], pair.tuned.identity()["sha256"])
    other = PairedLM(pair.base, FrozenLM.load("tiny", dtype="float32", seed=2))
    swapped = PairedLM(pair.tuned, pair.base)
    assert len({lm.identity()["sha256"] for lm in (pair, other, swapped)}) == 3
    assert pair.n_bytes() == pair.base.n_bytes() + pair.tuned.n_bytes()


def test_bad_sites_say_which_model(pair) -> None:
    with pytest.raises(UserError, match=r"name base/blocks\.1\.hook_resid_post for tiny"):
        pair.check_site(SITE)
    with pytest.raises(UserError, match=r"site 'tuned/blocks\.1\.hook_resid_pots', in tiny: .*did you mean"):
        pair.check_site("tuned/blocks.1.hook_resid_pots")
    with pytest.raises(UserError, match="at most 64"):
        pair.activations(torch.zeros(1, 65, dtype=torch.int64), BOTH)


def test_other_tokenizers_are_refused_and_smaller_contexts_count(pair) -> None:
    byte_pair = byte_tokenizer()
    byte_pair.add_tokens(["word"])
    other = FrozenLM(with_twin("llama")[0].bridge, byte_pair, name="other")
    with pytest.raises(UserError, match="'other': has another tokenizer than 'tiny'"):
        PairedLM(pair.base, other)
    short = PairedLM(pair.base, FrozenLM.load("tiny", dtype="bfloat16", seed=1, n_ctx=32, n_layers=2))
    assert (short.n_ctx, short.n_layers, short.dtype) == (32, 2, torch.float32)
    got = short.activations(TOKENS[:, :32], BOTH)
    assert {value.dtype for value in got.values()} == {torch.float32}
    with pytest.raises(UserError, match=r"site 'tuned/blocks.2.*layers 0 to 1"):
        short.check_site("tuned/blocks.2.hook_resid_post")


def test_lazy_models_stay_unloaded_until_something_is_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SAE_LIGHTNING_CACHE", str(tmp_path / "cache"))
    folders = [save(random_model("llama", seed), tmp_path / str(seed)) for seed in (0, 1)]
    for folder in folders:
        LazyLM(folder, dtype="float32").check_site(SITE)
    lazy = PairedLM(*(LazyLM(folder, dtype="float32") for folder in folders))
    assert lazy.site_width(BOTH[0]) == 32
    assert lazy.identity()["tuned"]["name"] == folders[1]
    assert not lazy.loaded
    assert lazy.windows_read == 0
    lazy.activations(TOKENS, [BOTH[1]])
    assert lazy.windows_read == len(TOKENS)
    assert isinstance(lazy.base, LazyLM)
    assert not lazy.base.loaded, "only the model that is read is loaded"

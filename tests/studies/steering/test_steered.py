"""The context manager: every run inside is steered, by this thread, and none outside."""

import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_lightning.activations import MaskPolicy
from sae_lightning.core import UserError
from sae_lightning.studies.steering.edits import add, clamp, scale
from sae_lightning.studies.steering.generate import generate
from sae_lightning.studies.steering.sampling import Sampling
from sae_lightning.studies.steering.steered import steered
from sae_lightning.studies.steering.steering import Steering
from tests.store.planted import planted_store
from tests.studies.steering.kinds import KINDS, made

TOKENS = torch.randint(0, 256, (2, 30), generator=torch.Generator().manual_seed(0))
SITE, ABOVE = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"


@pytest.mark.parametrize("kind", KINDS)
def test_runs_logits_activations_and_texts_inside_are_steered(kind) -> None:
    one = made(kind, masked=False)
    lm, sae = one.reader.lm, one.reader.sae
    clean = lm.logits(TOKENS)
    prompt, sampling = np.array([97, 98, 99]), Sampling(max_tokens=6)
    with steered(lm, sae, {3: clamp(4.0)}, mask=one.reader.mask) as steering:
        ran = lm.run(TOKENS, sites=(ABOVE,))
        assert torch.equal(lm.logits(TOKENS), ran.logits)
        assert torch.equal(lm.activations(TOKENS, [ABOVE])[ABOVE], ran.seen[ABOVE])
        texts = generate(steering.reader, prompt, None, sampling, n=2)
    assert not torch.allclose(ran.logits[:, 1:], clean[:, 1:], atol=0.1)
    assert torch.equal(ran.logits[:, 0], clean[:, 0]), "the first position is masked"
    assert torch.equal(lm.logits(TOKENS), clean)
    alone = generate(one.reader, prompt, Steering(one.reader, {3: clamp(4.0)}), sampling, n=2)
    assert [one.text for one in texts] == [one.text for one in alone]


@pytest.mark.parametrize("keep_error", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_go_through_what_is_steered(kind, keep_error) -> None:
    one = made(kind, masked=False)
    lm, below = one.reader.lm, "blocks.0.hook_resid_pre"
    clean = lm.activations(TOKENS, [below])[below]
    step = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    edits = {3: clamp(4.0), 5: scale(2.0), 7: add(1.0)}

    def said(x: Tensor, grad: bool = False) -> Tensor:
        with steered(lm, one.reader.sae, edits, mask=one.reader.mask, keep_error=keep_error):
            return lm.logits(TOKENS, {below: x}, grad=grad)[0, -1, 5]

    x = clean.clone().requires_grad_()
    (slope,) = torch.autograd.grad(said(x, grad=True), x)
    assert float((slope * step).sum()) == pytest.approx(
        float(said(clean + step) - said(clean - step)) / 2, rel=0.02, abs=1e-5
    )


def test_sites_and_mask_come_from_the_sae_and_strengths_from_a_store(tmp_path) -> None:
    one = made("sae")
    lm, sae = one.reader.lm, one.reader.sae
    store = planted_store(tmp_path, d_sae=24).store
    mask = MaskPolicy(special_ids=(5,), norm_multiple=None)
    said = dict(sae.metadata)
    try:
        sae.metadata = {**said, "mask": mask.to_dict()}
        with steered(lm, sae, {0: clamp("2x")}, store=store) as steering:
            assert steering.edits_of == {0: clamp(2 * float(store.stats.largest[0]))}
            assert steering.reader.mask == mask
            assert steering.reader.sites.write == (SITE,)
        sae.metadata = said
        with steered(lm, sae, {}) as steering:
            assert steering.reader.mask == MaskPolicy(lm.special_ids, True, None)
        sae.metadata = {}
        with pytest.raises(UserError, match="give sites="), steered(lm, sae, {}):
            pass
    finally:
        sae.metadata = said
    with pytest.raises(UserError, match="features 0 to 23"), steered(lm, sae, {24: clamp(1)}):
        pass


def test_nested_ones_read_what_the_outer_left_and_a_runs_own_edit_comes_first() -> None:
    one = made("sae", masked=False)
    lm, sae, mask = one.reader.lm, one.reader.sae, one.reader.mask
    both = {3: clamp(4.0), 7: add(2.0)}
    other = torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(1))
    with steered(lm, sae, both, mask=mask):
        together = lm.run(TOKENS, {SITE: other}, sites=(SITE,)).seen[SITE]
    with torch.no_grad():
        f = torch.relu((other - sae.b_dec) @ sae.W_enc + sae.b_enc)
        by_hand = other + (4.0 - f[..., 3:4]) * sae.W_dec[3] + 2.0 * sae.W_dec[7]
    torch.testing.assert_close(together[:, 1:], by_hand[:, 1:], rtol=1e-4, atol=1e-4)
    with steered(lm, sae, {7: add(2.0)}, mask=mask), steered(lm, sae, {3: clamp(4.0)}, mask=mask):
        nested = lm.run(TOKENS, sites=(SITE,)).seen[SITE]
    with torch.no_grad():
        clean = lm.run(TOKENS, sites=(SITE,)).seen[SITE]
        outer = clean + 2.0 * sae.W_dec[7]
        f = torch.relu((outer - sae.b_dec) @ sae.W_enc + sae.b_enc)
        by_hand = outer + (4.0 - f[..., 3:4]) * sae.W_dec[3]
    torch.testing.assert_close(nested[:, 1:], by_hand[:, 1:], rtol=1e-4, atol=1e-4)


def test_an_outer_one_above_an_inner_one_reads_what_the_inner_one_made_of_the_text() -> None:
    """The inner one's own clean run has the outer one in it, and must leave nothing of itself in the run after it."""
    low, high = made("crosscoder", masked=False), made("sae", masked=False)
    lm = high.reader.lm
    with steered(lm, high.reader.sae, {3: clamp(4.0)}, mask=high.reader.mask):
        with steered(lm, low.reader.sae, {5: clamp(3.0)}, mask=low.reader.mask):
            seen = lm.run(TOKENS, sites=(SITE,)).seen[SITE]
        assert torch.equal(lm.logits(TOKENS), lm.logits(TOKENS))
    # The outer one edits first, so the crosscoder, whose sites reach as high, has the last word there: its clean
    # activation, which the outer one is part of, and its change.
    with steered(lm, high.reader.sae, {3: clamp(4.0)}, mask=high.reader.mask):
        read = lm.run(TOKENS, sites=low.reader.sites.read).seen
    x = torch.cat([read[site] for site in low.reader.sites.read], dim=-1)
    sae = low.reader.sae
    with torch.no_grad():
        f = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
        by_hand = read[SITE] + (3.0 - f[..., 5:6]) * sae.W_dec[5, 32:]
    torch.testing.assert_close(seen[:, 1:], by_hand[:, 1:], rtol=1e-4, atol=1e-4)


def test_other_threads_are_not_steered_and_may_steer_themselves() -> None:
    one = made("sae", masked=False)
    lm, sae, mask = one.reader.lm, one.reader.sae, one.reader.mask
    clean = lm.logits(TOKENS)
    strengths = (0.0, 2.0, 4.0, 8.0)
    wanted = {}
    for strength in strengths:
        with steered(lm, sae, {3: clamp(strength)}, mask=mask):
            wanted[strength] = lm.logits(TOKENS)
    found: dict[float | None, list[Tensor]] = {None: []} | {strength: [] for strength in strengths}

    def work(strength: float | None) -> None:
        for _ in range(5):
            if strength is None:
                found[None].append(lm.logits(TOKENS))
                continue
            with steered(lm, sae, {3: clamp(strength)}, mask=mask):
                found[strength].append(lm.logits(TOKENS))

    threads = [threading.Thread(target=work, args=(strength,)) for strength in found]
    with steered(lm, sae, {3: clamp(-4.0)}, mask=mask):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(one, clean) for one in found[None])
    for strength in strengths:
        assert len(found[strength]) == 5
        assert all(torch.equal(one, wanted[strength]) for one in found[strength])


def test_whatever_ends_the_block_nothing_of_it_stays() -> None:
    one = made("sae", masked=False)
    lm = one.reader.lm
    clean = lm.logits(TOKENS)
    with pytest.raises(KeyboardInterrupt), steered(lm, one.reader.sae, {3: clamp(4.0)}, mask=one.reader.mask):
        raise KeyboardInterrupt
    assert torch.equal(lm.logits(TOKENS), clean)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in one.twin.modules()]
    assert not any(hooks)

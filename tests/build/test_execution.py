"""Which product selects: what auto decides, and that a resumed run does as the first sitting did."""

import pytest
import torch

from sae_lightning.build import execution
from sae_lightning.build.execution import agreement, decided, fast_bfloat16, set_execution
from sae_lightning.config import RunConfig
from sae_lightning.losses import Objective, PreAct, Reconstruction
from sae_lightning.sae import BatchTopKSAE, JumpReLUSAE, StandardSAE, TopKSAE, initialise

OBJECTIVE = Objective({"reconstruction": Reconstruction()})


def config(**trainer) -> RunConfig:
    node = {"tokens": 100, "sae": {}, "losses": {}, "data": {"kind": "activations", "path": "x.npy", "batch_size": 10}}
    return RunConfig.model_validate({**node, "trainer": trainer})


def an_sae(kind=TopKSAE, d_sae=640, **options):
    x = torch.randn(200, 24, generator=torch.Generator().manual_seed(0))
    sae = kind(24, d_sae, **options)
    initialise(sae, x, seed=0)
    return sae, x


@pytest.mark.parametrize(("wanted", "found"), [("float32", "float32"), ("bfloat16", "bfloat16")])
def test_what_is_asked_for_is_done(wanted, found):
    sae, x = an_sae(k=4)
    set_execution(sae, OBJECTIVE, config(encoder=wanted, pre_acts_mb=0.5), x)
    assert decided(sae) == found
    assert sae.execution.block_bytes == 2**19
    assert not sae.execution.whole_pre_acts


@pytest.mark.parametrize(
    ("fast", "share", "d_sae", "found"),
    [
        (True, 0.995, 640, "bfloat16"),
        (False, 0.995, 640, None),  # this CPU would only be slower
        (True, 0.98, 640, None),  # the features would be others
        (True, 0.995, 200, None),  # too narrow to gain anything
    ],
)
def test_auto(fast, share, d_sae, found, monkeypatch):
    monkeypatch.setattr(execution, "fast_bfloat16", lambda: fast)
    monkeypatch.setattr(execution, "agreement", lambda sae, x: share)
    sae, x = an_sae(k=4, d_sae=d_sae)
    set_execution(sae, OBJECTIVE, config(), x)
    assert decided(sae) == found


@pytest.mark.parametrize("product", [None, "bfloat16"])
def test_a_resumed_run_does_as_it_did(product, monkeypatch):
    monkeypatch.setattr(execution, "fast_bfloat16", lambda: product is None)
    sae, _ = an_sae(k=4)
    set_execution(sae, OBJECTIVE, config(), None, product)
    assert decided(sae) == product


def test_a_loss_on_all_pre_activations_is_noticed():
    sae, x = an_sae(JumpReLUSAE)
    set_execution(sae, Objective({"reconstruction": Reconstruction(), "pre_act": PreAct()}), config(), x)
    assert sae.execution.whole_pre_acts


@pytest.mark.parametrize("kind", [TopKSAE, BatchTopKSAE])
def test_agreement_is_near_one_with_candidates_and_changes_nothing(kind):
    sae, x = an_sae(kind, k=4)
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    share = agreement(sae.eval(), x)
    assert 0.99 <= share <= 1.0
    assert not sae.training
    assert sae.execution.product is None
    assert all(torch.equal(value, before[name]) for name, value in sae.state_dict().items())


def test_agreement_falls_where_rounding_hides_the_differences():
    sae, x = an_sae(k=4)
    with torch.no_grad():
        sae.W_enc.mul_(1e-4).add_(sae.W_enc[:, :1].clone() * 1e4)  # features that are nearly one and the same
    assert agreement(sae, x) < 0.9


def test_whether_the_cpu_has_it_is_a_bool():
    assert fast_bfloat16() in (True, False)


@pytest.mark.parametrize("kind", [StandardSAE, JumpReLUSAE])
def test_agreement_of_thresholded_ones_is_that_of_what_they_will_select(kind, monkeypatch):
    sae, x = an_sae(kind)
    seen = []
    choose = kind._choose

    def spy(self, rows, selector, pre_acts=None):
        out = choose(self, rows, selector, pre_acts)
        seen.append((self.execution.product, len(out[1].indices) / len(x)))
        return out

    monkeypatch.setattr(kind, "_choose", spy)
    assert 0.99 <= agreement(sae, x) <= 1.0
    assert [product for product, _ in seen] == [torch.float32, torch.bfloat16]
    assert all(16 < active < 64 for _, active in seen)


def test_agreement_is_found_in_blocks():
    sae, x = an_sae(k=4)
    whole = agreement(sae, x)
    sae.execution.block_bytes = 20_000
    assert agreement(sae, x) == pytest.approx(whole, abs=0.01)

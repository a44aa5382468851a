"""Held-out metrics of the real language model, on a few windows of news."""

from pathlib import Path

import pytest
import torch

from sae_lightning.activations import Harvester, MaskPolicy, calibrate
from sae_lightning.core import Sites
from sae_lightning.lm import FrozenLM
from sae_lightning.metrics import FVU
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.studies import Subject
from sae_lightning.studies.evaluation import DownstreamStudy, heldout_metrics
from sae_lightning.tokens import ListSource, NewsSource, TokenStore, Windows, write_tokens


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return FrozenLM.load("smollm2")


@pytest.fixture(scope="module")
def store(lm: FrozenLM, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    documents = NewsSource().documents()
    some = ListSource([next(documents).text for _ in range(4)])
    out: Path = tmp_path_factory.mktemp("news") / "tokens.bin"
    return write_tokens(some, lm.tokenizer, out, vocab_size=lm.vocab_size)


@pytest.mark.lm
def test_identity_and_mean_predictor_bound_every_sae(lm: FrozenLM, store: TokenStore) -> None:
    """Identity: nothing lost. An SAE that always writes the mean: exactly the mean ablation, fvu 1."""
    windows = Windows(store, "all", context_length=48, separator_id=lm.separator_id)
    site = "blocks.9.hook_resid_post"
    harvester = Harvester(lm, Sites((site,), (site,)), windows, MaskPolicy(lm.special_ids), micro_batch=4)
    harvester = harvester.with_mask(calibrate(harvester, 150, seed=0).mask)
    numbers = list(range(4))
    d = lm.d_model
    identity, constant = StandardSAE(d, 2 * d), StandardSAE(d, 8)
    fvu = FVU(d)
    for number in numbers:
        rows = harvester.rows([number]).x
        fvu.update(rows, rows)
    with torch.no_grad():
        identity.W_enc.copy_(torch.cat([torch.eye(d), -torch.eye(d)], 1))
        identity.W_dec.copy_(torch.cat([torch.eye(d), -torch.eye(d)], 0))
        constant.b_dec.copy_(fvu.mean)

    figures = heldout_metrics(Subject(identity, lm, harvester, numbers), show_progress=False)
    best = {name: figure.value for name, figure in figures.items()}
    assert best["fvu"] == best["delta_ce"] == best["kl"] == 0.0
    assert best["ce_recovered_zero"] == best["ce_recovered_mean"] == 1.0
    assert best["cosine"] == pytest.approx(1.0)
    assert best["ce_clean"] is not None
    assert 2.5 < best["ce_clean"] < 5.0  # shuffled words are above 7

    worst = DownstreamStudy(show_progress=False).run(Subject(constant, lm, harvester, numbers)).values
    assert worst["ce_recovered_mean"] == 0.0
    assert worst["ce_spliced"] == worst["ce_mean"]
    assert worst["ce_clean"] == best["ce_clean"]
    assert worst["ce_mean"] is not None
    assert worst["ce_mean"] > best["ce_clean"] + 0.5

"""Removing features on the tiny language model, against the same numbers computed the long way."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_lightning.activations import Harvester, MaskPolicy
from sae_lightning.core import Sites, UserError, torch_generator
from sae_lightning.lm import FrozenLM
from sae_lightning.metrics import bootstrap_weights, interval
from sae_lightning.metrics.effect import EffectSpread, effect_spread
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.sae.topk import TopKSAE
from sae_lightning.studies import Subject
from sae_lightning.studies.evaluation.ablation import COLUMNS, AblationStudy
from sae_lightning.studies.evaluation.ablation_sparsity import AblationSparsityStudy
from sae_lightning.studies.precision import in_float32
from sae_lightning.studies.removal import contribution
from sae_lightning.tokens import TokenStore, Windows

D, LENGTH, N = 32, 24, 14
SITE = "blocks.1.hook_resid_post"


def some_sae(d_out: int = D, **options: Any) -> SparseAutoencoder:
    sae = TopKSAE(D, 40, d_out, k=4, **options)
    g = torch_generator(5, "tests", "studies")
    for p in sae.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.2
    return sae


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    path: Path = tmp_path_factory.mktemp("tokens") / "ids.bin"
    rng = np.random.default_rng(0)
    ids = [np.append(rng.integers(0, 256, rng.integers(12, 60)), 65535) for _ in range(30)]
    path.write_bytes(np.concatenate(ids).astype("<u2").tobytes())
    store = TokenStore.open(path, "uint16", 65535)
    return Windows(store, "all", context_length=LENGTH, packing="document", separator_id=256)


def subject_of(windows: Windows, sae: SparseAutoencoder, write: str = SITE, dtype: str = "float32") -> Subject:
    lm = FrozenLM.load("tiny", dtype=dtype, seed=3)  # type: ignore[arg-type]
    mask = MaskPolicy(special_ids=(7, 8, 9, 256), first_position=True, norm_multiple=None)
    return Subject(sae, lm, Harvester(lm, Sites((SITE,), (write,)), windows, mask, micro_batch=4), range(N))


# One feature


@pytest.mark.parametrize("options", [{}, {"rescale_acts_by_decoder_norm": True}, {"layer_norm": True}], ids=str)
def test_a_contribution_is_what_the_reconstruction_loses(options: dict[str, bool]) -> None:
    sae = some_sae(**options).eval()
    x = torch.randn(20, D, generator=torch_generator(1)) * 3 + 1
    with torch.no_grad():
        out = sae(x)
        rows, added = contribution(sae, out.features, feature := int(out.features.counts().argmax()))
        values = out.features.dense().clone()
        assert rows.tolist() == values[:, feature].nonzero()[:, 0].tolist()
        values[:, feature] = 0
        without = sae.decode(replace(out.features, values=values, indices=None, offsets=None))
    expected = out.y_hat.clone()
    expected[rows] -= added
    torch.testing.assert_close(expected, without, rtol=1e-4, atol=1e-5)


def by_hand(subject: Subject, feature: int, numbers: list[int], keep_error: bool) -> dict[str, float]:
    """One window at a time, whole runs of the language model, float64."""
    lm, h, sae = subject.lm, subject.harvester, subject.sae
    assert lm is not None
    assert h is not None
    delta, divergence, count = 0.0, 0.0, 0
    for number in numbers:
        batch, x, y, keep = h.full_with_targets([number])
        with torch.no_grad():
            out = sae(x[keep])
        f = out.features.dense()
        base = y[keep] if keep_error else out.y_hat
        without = base - f[:, [feature]] * sae.W_dec[feature]

        def log_probs(rows: torch.Tensor, batch=batch, y=y, keep=keep) -> torch.Tensor:
            written = y.clone()
            written[keep] = rows.detach()
            return lm.logits(batch.tokens, {h.sites.write[0]: written}).double().log_softmax(-1)[0]

        start = int(keep[0].nonzero()[:, 0][f[:, feature].nonzero()[0, 0]])
        a, b = log_probs(base), log_probs(without)
        for p in range(start, LENGTH - 1):
            if batch.mask[0, p + 1]:
                target = int(batch.tokens[0, p + 1])
                delta += float(a[p, target] - b[p, target])
                divergence += float((a[p].exp() * (a[p] - b[p])).sum())
                count += 1
    return {"delta_ce": delta / count, "kl": divergence / count, "n": count}


def firing_windows(subject: Subject, feature: int) -> list[int]:
    assert subject.harvester is not None
    found = []
    for number in range(N):
        with torch.no_grad():
            if subject.sae.encode(subject.harvester.rows([number]).x).counts()[feature] > 0:
                found.append(number)
    return found


@pytest.mark.parametrize(
    ("write", "keep_error", "n_features"), [(SITE, False, 8), (SITE, True, 3), ("blocks.2.hook_mlp_out", False, 3)]
)
def test_ablation_equals_the_long_way(windows: Windows, write: str, keep_error: bool, n_features: int) -> None:
    subject = subject_of(windows, some_sae(), write)
    study = AblationStudy(
        n_features, windows_per_feature=50, min_firings=8, min_windows=8, keep_error=keep_error, show_progress=False
    )
    result = study.run(subject)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in result.tables["features"].rows]
    assert len(rows) == n_features
    total = 0
    for row in rows:
        numbers = firing_windows(subject, row["feature"])
        expected = by_hand(subject, row["feature"], numbers, keep_error)
        assert row["windows"] == len(numbers) >= 8
        assert row["delta_ce"] == pytest.approx(expected["delta_ce"], abs=1e-6)
        assert row["kl"] == pytest.approx(expected["kl"], abs=1e-6)
        assert row["low"] <= row["delta_ce"] <= row["high"]
        assert row["firings"] >= 8
        total += expected["n"]
    v = result.values
    assert v["ablation_delta_ce"] == pytest.approx(np.mean([row["delta_ce"] for row in rows]))
    assert v["ablation_kl"] == pytest.approx(np.mean([row["kl"] for row in rows]))
    off = [not row["low"] <= 0 <= row["high"] for row in rows]
    assert v["ablation_share_nonzero"] == pytest.approx(np.mean(off))
    share = result.estimates["ablation_share_nonzero"]
    assert 0 <= share.low <= np.mean(off) <= share.high <= 1  # type: ignore[operator]
    assert share.high - share.low > 0.3  # type: ignore[operator] # of so few features
    assert result.tokens == total
    assert [row["delta_ce"] for row in rows] == sorted((row["delta_ce"] for row in rows), reverse=True)
    e = result.estimates["ablation_kl"]
    if n_features < 8:
        assert e.low is e.high is None
    else:
        assert e.low < e.value < e.high  # type: ignore[operator]


def test_a_feature_that_writes_nothing_costs_nothing(windows: Windows) -> None:
    sae = some_sae()
    with torch.no_grad():
        sae.W_dec.zero_()
    for dtype in ("float32", "bfloat16"):
        subject = subject_of(windows, sae, dtype=dtype)
        result = AblationStudy(4, min_firings=8, float32=False, show_progress=False).run(subject)
        assert set(result.values.values()) == {0.0}
        assert ("float32=true" in " ".join(result.notes)) == (dtype == "bfloat16")
        spread = AblationSparsityStudy(windows=8, span=4, show_progress=False).run(subject)
        assert spread.values == {"ablation_sparsity": None, "ablation_sparsity_random": None}


def test_windows_of_a_feature_are_a_seeded_sample(windows: Windows) -> None:
    subject = subject_of(windows, some_sae())

    def tables(seed: int, per_feature: int) -> list[tuple]:
        study = AblationStudy(
            5, windows_per_feature=per_feature, min_firings=8, min_windows=9, seed=seed, show_progress=False
        )
        return list(study.run(subject).tables["features"].rows)

    first = tables(0, 8)
    assert all(row[2] == 8 for row in first)
    assert tables(0, 8) == first
    assert {row[0] for row in tables(1, 8)} != {row[0] for row in first}


@pytest.mark.parametrize(("tokens", "n_windows"), [(LENGTH, 1), (9 * LENGTH, 9), (9 * LENGTH + 1, 10), (10**6, N)])
def test_tokens_are_cut_by_windows_and_not_by_units(
    windows: Windows, monkeypatch: pytest.MonkeyPatch, tokens: int, n_windows: int
) -> None:
    subject = subject_of(windows, some_sae())
    monkeypatch.setattr("sae_lightning.studies.subject.UNIT_TOKENS", 4 * LENGTH)
    assert [len(unit) for unit in subject.units()] == [4, 4, 4, 2]
    with pytest.raises(UserError, match=f"no feature fires 1000 times in 8 of {n_windows} windows"):
        AblationStudy(min_firings=1000, tokens=tokens, show_progress=False).run(subject)
    if n_windows >= 9:

        def run(subject: Subject, tokens: int | None) -> dict:
            study = AblationStudy(4, windows_per_feature=20, min_firings=8, tokens=tokens, show_progress=False)
            return study.run(subject).to_json()

        assert run(subject, tokens) == run(replace(subject, windows=range(n_windows)), None)


def test_a_note_says_why_there_are_no_intervals(windows: Windows) -> None:
    subject = subject_of(windows, some_sae())
    for n, there in ((3, True), (8, False)):
        result = AblationStudy(n, min_firings=8, show_progress=False).run(subject)
        assert (result.estimates["ablation_kl"].low is None) == there
        assert any(f"{n} features: intervals" in note and "at least 8" in note for note in result.notes) == there
    spread = AblationSparsityStudy(windows=7, span=4, show_progress=False).run(subject)
    assert spread.estimates["ablation_sparsity"].low is None
    assert any("7 windows: intervals need at least 8" in note for note in spread.notes)


def test_too_few_firings_and_no_language_model_are_said(windows: Windows) -> None:
    subject = subject_of(windows, some_sae())
    with pytest.raises(UserError, match=r"no feature fires 1000 times in 8 of \d+ windows; raise studies.ablation.tok"):
        AblationStudy(min_firings=1000, show_progress=False).run(subject)
    alone = Subject(some_sae(), rows=torch.zeros(9, D))
    for study in (AblationStudy(), AblationSparsityStudy()):
        assert "needs a language model" in (study.reason(alone) or "")
        with pytest.raises(UserError, match=f"{study.name}: needs a language model"):
            study.run(alone)
    with pytest.raises(UserError, match=r"windows longer than span=24, these have 24 positions; lower studies"):
        AblationSparsityStudy(span=24).run(subject)


# The spread of an effect


def test_effect_spread_counts_the_logits_that_move() -> None:
    one = torch.zeros(4, 9)
    one[2, 3] = 7.0
    assert effect_spread(one) == pytest.approx(1 / 36)
    signs = torch.ones(4, 9)
    signs[:, ::2] = -1
    signs[:, 0] = 0  # the median of four 1, four -1 and a 0
    assert effect_spread(signs) == pytest.approx(32**2 / 32 / 36)
    assert effect_spread(signs.double() * 1e-3 + 100 * torch.arange(4.0)[:, None]) == pytest.approx(32 / 36)
    assert np.isnan(effect_spread(torch.full((4, 9), 3.0)))
    few = torch.zeros(2, 100)
    few[0, :5] = torch.tensor([1.0, -1, 1, -1, 1])
    assert effect_spread(few) == pytest.approx(5 / 200)


def test_the_mean_of_pairs_leaves_out_what_moved_nothing() -> None:
    metric, other = EffectSpread(), EffectSpread()
    metric.update(0.2, float("nan"))
    other.update(0.4, 0.5)
    metric.merge(other)
    assert metric.compute() == pytest.approx({"ablation_sparsity": 0.3, "ablation_sparsity_random": 0.5})


@pytest.mark.parametrize("keep_error", [False, True])
def test_ablation_sparsity_equals_the_long_way(windows: Windows, keep_error: bool) -> None:
    """With every allowed pair of every window taken nothing is left to chance but the random directions."""
    subject = subject_of(windows, some_sae())
    lm, h, sae, span = subject.lm, subject.harvester, subject.sae, 9
    assert lm is not None
    assert h is not None
    result = AblationSparsityStudy(
        windows=8, pairs=10_000, span=span, keep_error=keep_error, draws=200, show_progress=False
    ).run(subject)
    sums, counts = np.zeros(8), np.zeros(8)
    for number in range(8):
        batch, x, keep = h.full([number])
        with torch.no_grad():
            out = sae(x[keep])
        base = x[keep] if keep_error else out.y_hat.detach()
        f = out.features.dense()
        position = keep[0].nonzero()[:, 0]

        def logits(rows: torch.Tensor, batch=batch, x=x, keep=keep) -> torch.Tensor:
            written = x.clone()
            written[keep] = rows
            return lm.logits(batch.tokens, {SITE: written})[0]

        before = logits(base)
        for row, feature in f.nonzero().tolist():
            at = int(position[row])
            if at + span > int(batch.mask[0].sum()):
                continue
            without = base.clone()
            without[row] -= f[row, feature].detach() * sae.W_dec[feature].detach()
            d = (logits(without) - before)[at : at + span].double().numpy()
            d = np.abs(d - np.sort(d, axis=1)[:, [(d.shape[1] - 1) // 2]])
            sums[number] += d.sum() ** 2 / (d**2).sum() / d.size
            counts[number] += 1
    assert (counts > 3).sum() > 1
    e = result.estimates["ablation_sparsity"]
    assert e.tokens == counts.sum()
    assert e.value == pytest.approx(sums.sum() / counts.sum(), rel=2e-3)
    weights = bootstrap_weights(8, 200, 0).numpy()
    with np.errstate(invalid="ignore"):
        draws = (weights @ sums) / (weights @ counts)
    low, high = interval(sums.sum() / counts.sum(), draws, 8)  # type: ignore[misc]
    assert (e.low, e.high) == pytest.approx((low, high), rel=2e-3)
    random = result.values["ablation_sparsity_random"]
    assert random is not None
    assert 0 < random < 1


def test_a_pair_is_the_same_whatever_windows_are_beside_it(windows: Windows) -> None:
    subject = subject_of(windows, some_sae())
    study = AblationSparsityStudy(windows=8, span=4, show_progress=False)
    a = study.run(replace(subject, windows=[4, 6])).values
    b = study.run(replace(subject, windows=[6, 4])).values
    assert a == pytest.approx(b, rel=1e-4)


# float32 for a while


def test_half_precision_is_widened_and_given_back_bit_for_bit(windows: Windows) -> None:
    lm = FrozenLM.load("tiny", dtype="bfloat16", seed=3)
    tokens = windows.batch([0, 1]).tokens
    weights = {name: p.data_ptr() for name, p in lm.bridge.original_model.named_parameters()}
    before = lm.logits(tokens)
    with in_float32(lm):
        assert lm.dtype == lm.logits(tokens).dtype == torch.float32
        assert lm.activations(tokens, [SITE])[SITE].dtype == torch.float32
    with pytest.raises(UserError), in_float32(lm):
        lm.check_site("none such")
    assert lm.dtype == torch.bfloat16
    assert torch.equal(lm.logits(tokens), before)
    assert {name: p.data_ptr() for name, p in lm.bridge.original_model.named_parameters()} == weights
    with in_float32(lm, on=False):
        assert lm.dtype == torch.bfloat16

"""Direct effect on the logits: dense NumPy from a model's own weights, and the logits that really change."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_lightning.activations import Harvester, MaskPolicy
from sae_lightning.core import Sites, torch_generator
from sae_lightning.lm import FrozenLM, PairedLM
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.studies import Subject
from sae_lightning.studies.analysis import logit_effect as module
from sae_lightning.studies.analysis.logit_effect import LogitEffectStudy
from sae_lightning.tokens import TokenStore, Windows
from tests.lm.models import random_model, save
from tests.lm.test_readout import with_random_norms

F, D, N_WINDOWS = 50, 32, 12
SITE = "blocks.1.hook_resid_post"
# Of each kind: the final norm's weight, what is added to it, its epsilon, whether it centres, and the unembedding.
WEIGHTS = {
    "tiny": ("ln_out.weight", 0, 1e-5, True, "head.weight"),
    "llama": ("model.norm.weight", 0, 1e-6, False, "lm_head.weight"),
    "gemma2": ("model.norm.weight", 1, 1e-6, False, "lm_head.weight"),
    "gpt2": ("transformer.ln_f.weight", 0, 1e-5, True, "lm_head.weight"),
}


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> Windows:
    path: Path = tmp_path_factory.mktemp("tokens") / "ids.bin"
    rng = np.random.default_rng(0)
    ids = [np.append(rng.integers(0, 256, rng.integers(10, 60)), 65535) for _ in range(40)]
    path.write_bytes(np.concatenate(ids).astype("<u2").tobytes())
    return Windows(TokenStore.open(path, "uint16", 65535), "all", context_length=24, separator_id=256)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> Callable[[str], FrozenLM]:
    known: dict[str, FrozenLM] = {}

    def load(kind: str) -> FrozenLM:
        if kind not in known:
            if kind == "tiny":
                known[kind] = FrozenLM.load("tiny", dtype="float32")
                with_random_norms(known[kind].model)
            else:
                folder = save(with_random_norms(random_model(kind)), tmp_path_factory.mktemp(kind))
                known[kind] = FrozenLM.load(folder, dtype="float32")
        return known[kind]

    return load


def sae_of(W: torch.Tensor, **options) -> StandardSAE:
    sae = StandardSAE(W.shape[1], W.shape[0], **options)
    sae.W_dec.data = W.clone()
    return sae


def decoder(n: int = F, d: int = D) -> torch.Tensor:
    return torch.randn(n, d, generator=torch_generator(0, "tests", "logit_effect"))


def subject(lm: FrozenLM, windows: Windows, W: torch.Tensor, site: str = SITE, **options) -> Subject:
    mask = MaskPolicy(special_ids=(7, 256), first_position=True, norm_multiple=None)
    harvester = Harvester(lm, Sites((SITE,), (site,)), windows, mask, micro_batch=4)
    return Subject(sae_of(W, **options), lm, harvester, range(N_WINDOWS))


def weights_of(lm: FrozenLM) -> dict[str, np.ndarray]:
    state = lm.model.state_dict()
    return {name.replace("_original_component.", ""): value.double().numpy() for name, value in state.items()}


def dense(kind: str, lm: FrozenLM, windows: Windows, W: np.ndarray, tokens: int | None) -> tuple[np.ndarray, float]:
    """Return effects [F, known tokens] and the scale, from the weights by name and the last block's output."""
    gamma, plus, eps, centred, head = WEIGHTS[kind]
    weights = weights_of(lm)
    scale = 1.0
    if tokens is not None:
        numbers = np.unique(np.linspace(0, N_WINDOWS - 1, -(-tokens // 24)).round().astype(int))
        batch = windows.batch(numbers)
        x = lm.activations(batch.tokens, ["blocks.2.hook_resid_post"])["blocks.2.hook_resid_post"].double().numpy()
        ids = batch.tokens.numpy()
        real = (batch.token_index.numpy() >= 0) & (ids != 7) & (ids != 256) & (np.arange(ids.shape[1]) > 0)
        x = x[real]
        scale = float(np.median(np.sqrt((x.var(1) if centred else (x**2).mean(1)) + eps)))
    rows = W - W.mean(1, keepdims=True) if centred else W
    return (rows * (weights[gamma] + plus) / scale) @ weights[head][:257].T, scale


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("tokens", [None, 100])
def test_it_is_the_dense_product(kind: str, tokens: int | None, windows: Windows, language_model) -> None:
    lm = language_model(kind)
    W = decoder()
    one = subject(lm, windows, W)
    study = LogitEffectStudy(n=6, tokens=tokens or 0, show_progress=False)
    assert study.reason(one) is None
    result = study.run(one)
    effect, scale = dense(kind, lm, windows, W.double().numpy(), tokens)
    arrays = result.arrays
    for name, sign in (("promoted", -1), ("suppressed", 1)):
        order = np.argsort(sign * effect, axis=1, kind="stable")[:, :6]
        np.testing.assert_array_equal(arrays[name], order)
        np.testing.assert_allclose(arrays[f"{name}_logit"], np.take_along_axis(effect, order, 1), rtol=1e-4)
        assert (arrays[name].dtype, arrays[f"{name}_logit"].dtype) == (np.int32, np.float32)
    said = f"divides by {scale:.4g}, its median" if tokens else "was not measured"
    assert said in result.notes[0]
    assert any("bends its logits" in note for note in result.notes) == (kind == "gemma2")
    peak = (effect.max(1) - effect.mean(1)) / effect.std(1)
    np.testing.assert_allclose(arrays["logit_peak"], peak, rtol=1e-4)
    rows = result.tables["strongest"].rows
    assert [row[0] for row in rows] == np.argsort(-peak, kind="stable").tolist()
    decode = lm.tokenizer.decode
    assert rows[0][2] == " ".join(repr(decode([int(t)])) for t in arrays["promoted"][rows[0][0]])


@pytest.mark.parametrize("kind", ["tiny", "llama", "gpt2"])
def test_it_is_what_the_logits_really_change_by(kind: str, windows: Windows, language_model) -> None:
    lm = language_model(kind)
    site = "blocks.2.hook_resid_post"
    tokens = windows.batch([0]).tokens
    clean = lm.run(tokens, sites=[site])
    x = clean.seen[site][0, 9].double()
    centred = WEIGHTS[kind][3]
    W = decoder().double()
    if centred:
        W, x = W - W.mean(1, keepdim=True), x - x.mean()
    # Along the stream itself a row changes the norm's scale as well, which the direct effect holds still.
    W = W - (W @ x)[:, None] * x / (x @ x)
    one = subject(lm, windows, W.float(), site)
    result = LogitEffectStudy(n=8, tokens=0, show_progress=False).run(one)
    scale = float((x.square().mean() + WEIGHTS[kind][2]).sqrt())
    for feature in range(0, F, 7):
        for activation in (0.02, -0.02):
            edited = clean.seen[site].clone()
            edited[0, 9] += activation * W[feature].float()
            change = (lm.logits(tokens, {site: edited}) - clean.logits)[0].double()
            assert not change[:9].any()
            for side in ("promoted", "suppressed"):
                real = change[9, result.arrays[side][feature]] / activation * scale
                np.testing.assert_allclose(result.arrays[f"{side}_logit"][feature], real, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("logits", "unembedding"), [(1, 1), (257 * 7, 1 << 20), (1 << 20, 32 * 20), (20 * 9, 32 * 20)])
def test_chunks_change_nothing(logits: int, unembedding: int, windows, language_model, monkeypatch) -> None:
    one = subject(language_model("llama"), windows, decoder())
    before = LogitEffectStudy(n=5, tokens=0, show_progress=False).run(one).arrays
    monkeypatch.setattr(module, "_LOGITS", logits)
    monkeypatch.setattr(module, "_UNEMBEDDING", unembedding)
    after = LogitEffectStudy(n=5, tokens=0, show_progress=False).run(one).arrays
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-5)


def test_rows_of_zeros_and_more_than_the_vocabulary(windows, language_model) -> None:
    W = decoder()
    W[3] = 0.0
    arrays = (
        LogitEffectStudy(n=1000, tokens=0, show_progress=False).run(subject(language_model("tiny"), windows, W)).arrays
    )
    assert arrays["promoted"].shape == (F, 257)
    assert arrays["promoted"][3].tolist() == arrays["suppressed"][3].tolist() == list(range(257))
    assert (np.diff(arrays["promoted_logit"], axis=1) <= 0).all()
    assert arrays["logit_peak"][3] == 0.0


def test_rescaled_rows_count_as_their_directions(windows, language_model) -> None:
    lm, W = language_model("llama"), decoder()
    study = LogitEffectStudy(tokens=0, show_progress=False)
    got = study.run(subject(lm, windows, W, rescale_acts_by_decoder_norm=True)).arrays
    want = study.run(subject(lm, windows, W / W.norm(dim=1, keepdim=True))).arrays
    np.testing.assert_array_equal(got["promoted"], want["promoted"])
    np.testing.assert_allclose(got["promoted_logit"], want["promoted_logit"], rtol=1e-5)


@pytest.mark.parametrize("kind", ["tiny", "llama"])
def test_rows_in_units_of_a_token_s_standard_deviation_count_by_its_median(kind: str, windows, language_model) -> None:
    lm, W = language_model(kind), decoder()
    study = LogitEffectStudy(n=6, tokens=100, show_progress=False)
    one = subject(lm, windows, W, layer_norm=True)
    batch = windows.batch(np.unique(np.linspace(0, N_WINDOWS - 1, 5).round().astype(int)))
    ids = batch.tokens.numpy()
    real = (batch.token_index.numpy() >= 0) & (ids != 7) & (ids != 256) & (np.arange(ids.shape[1]) > 0)
    x = lm.activations(batch.tokens, [SITE])[SITE].double().numpy()[real]
    std = float(np.median(np.sqrt(x.var(1) + 1e-5)))
    assert abs(std - 1) > 0.05
    result = study.run(one)
    effect = dense(kind, lm, windows, W.double().numpy(), 100)[0] * std
    order = np.argsort(-effect, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(result.arrays["promoted"], order)
    np.testing.assert_allclose(result.arrays["promoted_logit"], np.take_along_axis(effect, order, 1), rtol=1e-4)
    assert f"standard deviation: rows count times {std:.4g}, its median over {len(x):,} tokens" in result.notes[1]
    plain = study.run(subject(lm, windows, W))
    assert not any("standard deviation" in note for note in plain.notes)
    np.testing.assert_allclose(result.arrays["logit_peak"], plain.arrays["logit_peak"], rtol=1e-5)
    # Without tokens there is nothing to measure on.
    unknown = LogitEffectStudy(tokens=0, show_progress=False).run(one)
    assert any("in units of each token's standard deviation" in note for note in unknown.notes)
    without = LogitEffectStudy(tokens=0, show_progress=False).run(subject(lm, windows, W))
    np.testing.assert_array_equal(unknown.arrays["promoted_logit"], without.arrays["promoted_logit"])


def test_reasons(windows, language_model) -> None:
    study, lm = LogitEffectStudy(), language_model("tiny")
    assert "needs a language model" in (study.reason(Subject(sae_of(decoder()))) or "")
    crosscoder = Subject(sae_of(decoder(F, 64), site_widths=(32, 32)), lm)
    assert "writes 2 sites" in (study.reason(crosscoder) or "")
    narrow = Subject(sae_of(decoder(F, 8)), lm)
    assert "writes 8 numbers and the residual stream has 32" in (study.reason(narrow) or "")
    inside = subject(lm, windows, decoder(), "blocks.1.mlp.hook_in")
    assert "is not known to be added to the residual stream" in (study.reason(inside) or "")
    assert study.reason(subject(lm, windows, decoder(), "blocks.1.hook_mlp_out")) is None
    one_of_two = sae_of(decoder())
    one_of_two.metadata = {"sites": {"write": ["tuned/blocks.1.hook_resid_post"]}}
    assert "one of two language models" in (study.reason(Subject(one_of_two, PairedLM(lm, lm))) or "")

"""Attribution and influence on the tiny language model, against finite differences and runs written the long way."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from sae_lightning.core import Sites, TokenBatch, UserError
from sae_lightning.studies import Subject
from sae_lightning.studies.search.agreement import agreement
from sae_lightning.studies.search.attribution import AttributionSearch, attribution
from sae_lightning.studies.search.continuation import continuation, single_token
from sae_lightning.studies.search.influence import InfluenceSearch
from sae_lightning.studies.search.spliced import SplicedPrompt
from tests.studies.search.ground import KINDS, kind_ground, rows_of

PROMPT = "a green! river and"


def by_hand(subject: Subject, ids: np.ndarray, keep_error: bool = True) -> tuple[Callable, torch.Tensor, torch.Tensor]:
    """Return (logits of a change of features [n, d_sae], features, kept positions), whole runs without any padding."""
    reader, sae = subject.reader, subject.sae
    assert reader is not None
    tokens = torch.tensor([[256, *ids.tolist()]])
    index = torch.arange(-1, len(ids))[None]
    batch = TokenBatch(tokens, tokens >= 0, index, torch.zeros(1).long(), torch.zeros(1).long())
    read, write = reader.sites.read, reader.sites.write
    acts = reader.lm.activations(tokens, [*read, *write])
    x, y = (torch.cat([acts[site] for site in sites], dim=-1) for sites in (read, write))
    keep = reader.keep(batch, x)[0]
    assert keep.sum() < len(ids)  # the exclamation mark is masked
    rows = x[0, keep]
    with torch.no_grad():
        out = sae(rows)
    f = out.features.dense()
    scale = rows.std(1, correction=0, keepdim=True) if sae.layer_norm else torch.ones(len(rows), 1)
    if sae.layer_norm:
        scale = (rows.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    directions = sae.W_dec.detach()
    if sae.rescale_acts_by_decoder_norm:
        parts = directions.split(32, dim=1)
        directions = directions / torch.stack([part.norm(dim=1) for part in parts]).sum(0)[:, None]
    base = y[0, keep] if keep_error else out.y_hat

    def logits(new: torch.Tensor) -> torch.Tensor:
        rows = base + (new - f) @ directions * scale

        def edit(part: torch.Tensor) -> Callable:
            def written(clean: torch.Tensor) -> torch.Tensor:
                out = clean.clone()
                out[0, keep] = part
                return out  # a masked token shows what the changes below make of it

            return written

        parts = zip(write, rows.split([32] * len(write), dim=-1), strict=True)
        return reader.lm.logits(tokens, {site: edit(part) for site, part in parts})[0].double()  # type: ignore[union-attr]

    return logits, f, keep.nonzero()[:, 0]


@pytest.mark.parametrize("keep_error", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_attribution_is_the_slope_and_ablation_the_run(kind: str, keep_error: bool) -> None:
    subject = kind_ground(kind)
    reader = subject.reader
    assert reader is not None
    _, ids = reader.cut(PROMPT)
    logits, f, _ = by_hand(subject, ids, keep_error)

    def m(new: torch.Tensor) -> float:
        after = logits(new)[-1]
        return float(after[ord("x")] - after[ord("y")])

    study = AttributionSearch(PROMPT, "x", "y", n=12, keep_error=keep_error, show_progress=False)
    result = study.run(subject)
    assert f"m = {m(f):.4g}" in result.notes[0]
    rows = rows_of(result)
    fired = set((f != 0).any(0).nonzero()[:, 0].tolist())
    assert {row[0] for row in rows} <= fired
    assert len(rows) == min(12, len(fired))
    for feature, score, ablation, activation, tokens, piece in rows:
        without, eps = f.clone(), 2e-3
        without[:, feature] = 0
        assert ablation == pytest.approx(m(f) - m(without), abs=2e-4)
        more, less = f.clone(), f.clone()
        more[:, feature] *= 1 + eps
        less[:, feature] *= 1 - eps
        assert score == pytest.approx((m(more) - m(less)) / (2 * eps), rel=0.05, abs=2e-3)
        assert activation == pytest.approx(float(f[:, feature][f[:, feature].abs().argmax()]), rel=1e-4)
        assert tokens == int((f[:, feature] != 0).sum())
        assert piece in reader.cut(PROMPT)[0]
    assert [abs(row[1]) for row in rows] == sorted((abs(row[1]) for row in rows), reverse=True)
    signs = [np.sign(row[1]) == np.sign(row[2]) for row in rows]
    assert result.estimates["sign_agreement"].value == pytest.approx(np.mean(signs))
    assert result.estimates["sign_agreement"].tokens == len(rows)


def test_attributions_add_up_to_the_slope_of_all_together() -> None:
    """Linear in the features: all of them scaled at once."""
    subject = kind_ground("sae")
    assert subject.reader is not None
    _, ids = subject.reader.cut(PROMPT)
    logits, f, _ = by_hand(subject, ids)
    prompt = SplicedPrompt(subject.reader, ids)
    scores, value = attribution(prompt, lambda logits: logits[:, prompt.last, 5].double())
    assert value == pytest.approx(float(logits(f)[-1, 5]), abs=1e-4)
    eps = 1e-3
    slope = float(logits(f * (1 + eps))[-1, 5] - logits(f * (1 - eps))[-1, 5]) / (2 * eps)
    assert float(scores.sum()) == pytest.approx(slope, rel=0.02, abs=1e-3)


def test_without_a_second_token_it_is_the_mean() -> None:
    subject = kind_ground("sae")
    assert subject.reader is not None
    _, ids = subject.reader.cut(PROMPT)
    logits, f, _ = by_hand(subject, ids)
    after = logits(f)[-1]
    result = AttributionSearch(PROMPT, "x", n=3, show_progress=False).run(subject)
    assert f"m = {float(after[ord('x')] - after.mean()):.4g}" in result.notes[0]


@pytest.mark.parametrize("kind", KINDS)
def test_influence_is_the_gain_of_a_run(kind: str) -> None:
    subject = kind_ground(kind)
    reader = subject.reader
    assert reader is not None
    from sae_lightning.studies.search import influence
    from sae_lightning.studies.search.base_rate import BaseRate

    rng = np.random.default_rng(0)
    largest = rng.random(subject.sae.d_sae) * 3
    count = np.ones(subject.sae.d_sae, np.int64)
    count[[2, 5]] = 0  # never seen to fire: nothing to set them to
    base = BaseRate(100, count, largest, lambda feature: np.zeros(0, np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(influence, "base_rate", lambda subject, show: base)
        study = InfluenceSearch(PROMPT, "bridge", 2.0, candidates=40, n=10, space=False, show_progress=False)
        result = study.run(subject)
    want = np.frombuffer(b"bridge", np.uint8).astype(np.int64)
    _, ids = reader.cut(PROMPT)
    logits, f, position = by_hand(subject, np.concatenate([ids, want]))
    of_prompt = position <= len(ids)

    def log_p(new: torch.Tensor) -> float:
        rows = logits(new)[len(ids) : -1].log_softmax(-1)
        return float(rows[torch.arange(len(want)), torch.from_numpy(want)].sum())

    def boosted(feature: int, share: float = 1.0) -> torch.Tensor:
        new = f.clone()
        to = 2.0 * largest[feature]
        new[of_prompt, feature] += share * (to - f[of_prompt, feature])
        return new

    exact = {i: log_p(boosted(i)) - log_p(f) for i in range(subject.sae.d_sae) if i not in (2, 5)}
    rows = rows_of(result)
    assert [row[0] for row in rows] == sorted(exact, key=lambda i: -exact[i])[:10]
    for feature, gain, first, set_to, density in rows:
        assert gain == pytest.approx(exact[feature], abs=5e-4)
        eps = 1e-3
        slope = (log_p(boosted(feature, eps)) - log_p(boosted(feature, -eps))) / (2 * eps)
        assert first == pytest.approx(slope, rel=0.05, abs=5e-3)
        assert set_to == pytest.approx(2 * largest[feature])
        assert density == 0.01
    assert f"= {log_p(f):.4g}" in result.notes[0]
    assert result.estimates["sign_agreement"].tokens == 38  # of 40, without those never seen to fire


def test_the_same_seed_gives_the_same_bits() -> None:
    subject = kind_ground("sae")
    study = AttributionSearch(PROMPT, "x", "y", n=12, show_progress=False)
    assert study.run(subject) == study.run(subject)


def test_agreement_is_signs_and_spearmans() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal(40)
    b = a + rng.standard_normal(40)
    found = agreement(a.tolist(), b.tolist(), "x")
    assert found["sign_agreement"].value == np.mean(np.sign(a) == np.sign(b))
    assert found["rank_correlation"].value == pytest.approx(spearmanr(a, b)[0])
    assert found["rank_correlation"].low < found["rank_correlation"].value < found["rank_correlation"].high  # type: ignore[operator]
    assert agreement([], [], "x")["sign_agreement"].value is None
    assert agreement([1.0], [1.0], "x")["rank_correlation"].value is None
    none = agreement([1.0] * 9, [1.0, 2.0, 3.0] * 3, "x")["rank_correlation"]
    assert (none.value, none.low) == (None, None)
    assert agreement([0.0, 1.0], [0.0, 0.0], "x")["sign_agreement"].value == 0.5


def test_words_are_words_of_their_own() -> None:
    reader = kind_ground("sae").reader
    assert reader is not None
    # The byte tokenizer has no token " x": the letter alone is one.
    assert single_token(reader, "river", "x", "target") == ord("x")
    assert single_token(reader, "river", " ", "target") == ord(" ")
    assert continuation(reader, "I am a", "bridge").tolist() == list(b" bridge")
    assert continuation(reader, "I am a ", "bridge").tolist() == list(b"bridge")
    assert continuation(reader, "I am a", "bridge", space=False).tolist() == list(b"bridge")
    assert continuation(reader, "I am a", ", so").tolist() == list(b", so")
    with pytest.raises(UserError, match=r"target='ab': must be a single token, but it is 3 \(' ', 'a', 'b'\)"):
        single_token(reader, "river", "ab", "target")


def test_mistakes_are_one_line() -> None:
    subject = kind_ground("sae")
    for strength in (float("nan"), float("inf"), 0.0):
        with pytest.raises(UserError, match="finite number"):
            InfluenceSearch("a", "b", strength)
    for study, match in (
        (AttributionSearch(PROMPT, "x", "x"), "the target itself"),
        (AttributionSearch("a" * 64, "x"), "reads 63"),
        (AttributionSearch("!!", "x"), "leaves none of its tokens"),
        (AttributionSearch("", "x"), "no tokens"),
    ):
        with pytest.raises(UserError, match=match):
            study.run(subject)
    reader = subject.reader
    assert reader is not None
    two = replace(reader, sites=Sites(("base/x",), ("base/x", "tuned/x")))
    with pytest.raises(UserError, match="two language models"):
        AttributionSearch(PROMPT, "x").run(replace(subject, reader=two))
    with pytest.raises(UserError, match="give a reader"):
        AttributionSearch("a", "b").run(Subject(subject.sae))

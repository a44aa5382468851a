"""The objective: coefficients once, lambda_eff that means what it says, and terms that refuse the wrong SAE."""

import pytest
import torch

from sae_lightning.core import ActivationBatch, Schedule, UserError, torch_generator
from sae_lightning.losses import (
    L0,
    L1,
    AuxK,
    GatedAux,
    GatedL1,
    LossTerm,
    Matryoshka,
    MultiTopK,
    Objective,
    PreAct,
    Reconstruction,
    StepContext,
    Tanh,
)
from sae_lightning.losses.context import token_variance
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.sae.matryoshka import MatryoshkaSAE
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.sae.topk import TopKSAE

N, D, F = 16, 6, 20


def context(progress: float = 1.0) -> StepContext:
    sae = StandardSAE(D, F)
    g = torch_generator(0, "tests", "objective")
    for p in sae.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.5
    sae.double()
    x = torch.randn(N, D, generator=g, dtype=torch.float64)
    batch = ActivationBatch(x=x, y=x, token_index=torch.arange(N))
    dead = torch.zeros(F, dtype=torch.bool)
    return StepContext(batch=batch, out=sae(x), sae=sae, dead=dead, progress=progress)


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.5, 1.0])
def test_total_is_every_coefficient_once(progress: float) -> None:
    ctx = context(progress)
    warming, falling = Schedule(3.0, "warmup", 0.2), Schedule(1.0, "linear", final=0.5)
    terms = {"r": Reconstruction(2.0), "s": L1(warming), "t": Tanh(falling)}
    objective = Objective(terms)
    total, values = objective(ctx)
    expected = sum(t.coefficient.at(progress) * t.compute(ctx) for t in terms.values())
    torch.testing.assert_close(total, expected)
    assert values == {name: term.compute(ctx) for name, term in terms.items()}
    assert all(not v.requires_grad for v in values.values())
    assert objective.coefficients(0.1)["s"] == pytest.approx(1.5)


def test_a_term_that_is_switched_off_cannot_poison_the_total() -> None:
    class Broken(LossTerm):
        name = "broken"

        def compute(self, ctx: StepContext) -> torch.Tensor:
            return ctx.out.y_hat.sum() * float("nan")

    ctx = context(0.0)
    total, values = Objective({"r": Reconstruction(), "b": Broken(Schedule(1.0, "two_phase", 0.5))})(ctx)
    total.backward()
    assert total.isfinite()
    assert values["b"].isnan()
    assert all(p.grad is None or p.grad.isfinite().all() for p in ctx.sae.parameters())


# MSE's reduction, L1's reduction, lambda_eff / lambda
CONVENTIONS = [
    ("per_token_sum", "per_token_sum", 1.0),
    ("element_mean", "batch_sum", N * D),
    ("element_mean", "per_token_sum", D),
    ("element_mean", "element_mean", D / F),
    ("per_token_sum", "element_mean", 1 / F),
    ("per_token_sum", "batch_sum", N),
]


@pytest.mark.parametrize(("mse", "l1", "factor"), CONVENTIONS)
def test_lambda_eff_is_the_per_token_coefficient(mse: str, l1: str, factor: float) -> None:
    """The formula, and what it means: the same objective up to a constant."""
    given = Objective({"r": Reconstruction(reduction=mse), "l1": L1(0.01, reduction=l1)})  # type: ignore[arg-type]
    effective = given.lambda_eff("l1", N, D, F)
    assert effective == pytest.approx(0.01 * factor)
    assert effective is not None
    ctx = context()
    plain, _ = Objective({"r": Reconstruction(), "l1": L1(effective)})(ctx)
    scale = 1 / D if mse == "element_mean" else 1.0
    torch.testing.assert_close(given(ctx)[0], plain * scale)


def test_lambda_eff_of_the_logged_runs() -> None:
    """Seed 003: lambda 5 there is 5 * B * d in Anthropic's convention."""
    objective = Objective({"r": Reconstruction(reduction="element_mean"), "l1": L1(5.0, reduction="batch_sum")})
    assert objective.lambda_eff("l1", 4096, 768, 8192) == pytest.approx(5.0 * 4096 * 768)


def test_lambda_eff_follows_schedules_weights_and_variance() -> None:
    objective = Objective({"r": Reconstruction(2.0), "l1": L1(Schedule(4.0, "warmup", 0.5)), "aux": AuxK()})
    assert objective.lambda_eff("l1", N, D, F, progress=0.25) == pytest.approx(1.0)
    assert objective.lambda_eff("aux", N, D, F) is None
    normalised = Objective({"r": Reconstruction(normalise="variance"), "l1": L1(4.0)})
    assert normalised.lambda_eff("l1", N, D, F, variance=3.0) == pytest.approx(12.0)
    assert normalised.lambda_eff("l1", N, D, F) is None
    ctx = context()
    effective = normalised.lambda_eff("l1", N, D, F, variance=float(token_variance(ctx.batch.y)))
    plain, _ = Objective({"r": Reconstruction(), "l1": L1(effective or 0.0)})(ctx)
    torch.testing.assert_close(normalised(ctx)[0] * token_variance(ctx.batch.y), plain)


def test_p_anneals_linearly_from_its_start() -> None:
    term = L1(p_start=1.0, p_end=0.2, p_from=0.5)
    assert [term.p_at(t) for t in (0.0, 0.5, 0.75, 1.0)] == pytest.approx([1.0, 1.0, 0.6, 0.2])


def test_p_below_1_has_finite_gradients_at_0() -> None:
    ctx = context()
    L1(p_start=0.2, p_end=0.2).compute(ctx).backward()
    assert (ctx.out.features.values == 0).any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in ctx.sae.parameters())


def test_equal_rows_divide_by_1() -> None:
    ctx = context()
    x = torch.full((N, D), 0.1, dtype=torch.float64) / 3
    same = StepContext(ActivationBatch(x, x, torch.arange(N)), ctx.sae(x), ctx.sae, ctx.dead)
    torch.testing.assert_close(Reconstruction(normalise="variance").compute(same), Reconstruction().compute(same))


STANDARD, TOPK = StandardSAE(D, F), TopKSAE(D, F, k=4, selection="group_max")
REFUSED: list[tuple[LossTerm, SparseAutoencoder, str]] = [
    (L0(), TOPK, "l0"),
    (PreAct(), STANDARD, "pre_act"),
    (GatedL1(), STANDARD, "gated_l1"),
    (GatedAux(), STANDARD, "gated_aux"),
    (Matryoshka(), TOPK, "matryoshka"),
    (Matryoshka(weights=(1.0, 1.0)), MatryoshkaSAE(D, 64, k=4), r"5 prefixes"),
    (MultiTopK(), STANDARD, "multi_topk"),
    (MultiTopK(multiple=4), TOPK, "multiple=4"),
]


@pytest.mark.parametrize(("term", "sae", "names"), REFUSED)
def test_terms_refuse_an_sae_they_have_no_meaning_for(term: LossTerm, sae: SparseAutoencoder, names: str) -> None:
    with pytest.raises(UserError, match=names):
        Objective({"r": Reconstruction(), "x": term}).check(sae)


def test_bad_options_are_refused() -> None:
    with pytest.raises(UserError, match="target"):
        L0(mode="target_l0")
    with pytest.raises(UserError, match="target"):
        L0(target_l0=10.0)
    with pytest.raises(UserError, match="at least one term"):
        Objective({})

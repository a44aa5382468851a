"""One SAE in two processes, by features, against the same SAE in one: every architecture, every loss term it has."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from sae_lightning.activations import Normaliser
from sae_lightning.core import ALONE, ActivationBatch, Ranks
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
    Tanh,
)
from sae_lightning.sae import initialise, sae_class
from sae_lightning.sae.kernels import Execution
from sae_lightning.sae.sharding import cut, feature_dim
from sae_lightning.training import Lane
from sae_lightning.training.adam import FusedAdam
from sae_lightning.training.together import Together
from tests.together import together

D, D_SAE, STEPS, ROWS = 12, 48, 4, 40


@dataclass(frozen=True)
class Case:
    """An SAE, its loss, and which features count as dead."""

    architecture: str
    options: dict[str, Any]
    terms: Callable[[], dict[str, LossTerm]]
    dead: Callable[[torch.Tensor], torch.Tensor] = field(default=lambda number: number % 3 == 0)
    d_out: int | None = None
    b_enc: float = 0.0
    execution: dict[str, Any] = field(default_factory=dict)


def selective(**more: LossTerm) -> dict[str, LossTerm]:
    return {"reconstruction": Reconstruction(normalise="variance"), "aux_k": AuxK(1.0, k_aux=4), **more}


CASES = {
    "standard": Case("standard", {}, lambda: {"r": Reconstruction(), "l1": L1(0.5)}),
    "standard element mean": Case(
        "standard", {}, lambda: {"r": Reconstruction(), "l1": L1(20.0, reduction="element_mean", p_end=0.5)}
    ),
    "standard sparse": Case("standard", {}, lambda: {"r": Reconstruction(), "l1": L1(0.5)}, b_enc=-1.2),
    "topk": Case("topk", {"k": 4}, selective),
    "topk multi": Case("topk", {"k": 4}, lambda: selective(multi=MultiTopK(multiple=2))),
    "topk more than a shard has": Case("topk", {"k": 30}, selective),
    "abs topk": Case("topk", {"k": 4, "selection": "abs_topk"}, selective),
    "group max": Case("topk", {"k": 8, "selection": "group_max"}, selective),
    "transcoder": Case("topk", {"k": 4, "skip": True}, selective, d_out=7),
    "skip": Case("topk", {"k": 4, "skip": True, "subtract_b_dec": True}, selective),
    "layer norm": Case("topk", {"k": 4, "layer_norm": True}, selective),
    "crosscoder": Case("batch_topk", {"k": 4, "rescale_acts_by_decoder_norm": True, "site_widths": (5, 7)}, selective),
    "batch topk": Case("batch_topk", {"k": 4, "k_start": 9, "k_anneal": 0.5}, selective),
    "batch topk narrow": Case(
        "batch_topk", {"k": 4}, selective, execution={"product": torch.bfloat16, "block_bytes": 2_000}
    ),
    "topk narrow": Case("topk", {"k": 4}, selective, execution={"product": torch.bfloat16, "block_bytes": 2_000}),
    "no dead on one": Case("topk", {"k": 4}, selective, dead=lambda number: number >= 40),
    "sparse aux on one": Case(
        "topk", {"k": 4}, lambda: selective() | {"aux_k": AuxK(1.0, k_aux=1)}, dead=lambda number: number >= 24
    ),
    "no dead at all": Case("topk", {"k": 4}, selective, dead=lambda number: number < 0),
    "jumprelu": Case("jumprelu", {"theta_init": 0.3, "bandwidth": 0.5}, lambda: {"r": Reconstruction(), "l0": L0(0.1)}),
    "jumprelu target": Case(
        "jumprelu",
        {"theta_init": 0.3, "bandwidth": 0.5},
        lambda: {"r": Reconstruction(), "l0": L0(0.5, "target_l0", 3.0)},
    ),
    "jumprelu tanh": Case(
        "jumprelu",
        {"theta_init": 0.3, "bandwidth": 0.5},
        lambda: {"r": Reconstruction(), "tanh": Tanh(0.3), "pre_act": PreAct(0.1)},
        execution={"whole_pre_acts": True},
    ),
    "gated": Case("gated", {}, lambda: {"r": Reconstruction(), "l1": GatedL1(0.5), "aux": GatedAux()}),
    "matryoshka": Case(
        "matryoshka", {"k": 4, "groups": (1 / 8, 3 / 8)}, lambda: {"m": Matryoshka(), "aux_k": AuxK(1.0, k_aux=4)}
    ),
}


def trained(case: Case, ranks: Ranks) -> dict[str, Any]:
    """Train a few steps in float64, as the module does, and return everything there is to compare."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(64, D, generator=generator)
    target = sample if case.d_out is None else torch.randn(64, case.d_out, generator=generator)
    with torch.device("cpu" if ranks.alone else "meta"):
        sae = sae_class(case.architecture)(D, D_SAE, case.d_out, **case.options)
    if not ranks.alone:
        cut(sae, ranks)
    initialise(sae, sample, target, scheme="tied")
    with torch.no_grad():
        sae.b_enc.add_(case.b_enc)
    # Narrow products are of float32 alone.
    sae = sae if case.execution.get("product") else sae.double()
    dtype = sae.W_enc.dtype
    sae.execution = Execution(**case.execution, ranks=ranks, sharded=not ranks.alone)
    lane = Lane(sae, Objective(case.terms()), Normaliser("none", False, D, case.d_out or D))
    number = torch.arange(sae.first, sae.first + sae.width)
    names = [name for name, _ in sae.named_parameters()]
    group = {"params": list(sae.parameters()), "lr": 1e-2, "clip": 0.5, "decoder": names.index("W_dec")}
    group |= {"project": sae.unit_norm_decoder, "renormalise": sae.unit_norm_decoder}
    group["shared"] = [i for i, name in enumerate(names) if name in sae.without_features]
    adam, share = FusedAdam([group], ranks=ranks), Together(ranks, sharded=True)
    out: dict[str, Any] = {"loss": [], "l0": [], "fvu": [], "norm": []}
    for step in range(STEPS):
        x = torch.randn(ROWS, D, generator=generator, dtype=dtype)
        y = x if case.d_out is None else torch.randn(ROWS, case.d_out, generator=generator, dtype=dtype)
        lane.tokens_since_fired.copy_(case.dead(number) * lane.dead_after_tokens)
        adam.zero_grad()
        loss = lane.step(ActivationBatch(x, y, torch.arange(ROWS)), step / STEPS)
        loss.backward()
        share.add_up([lane], ROWS, ROWS, step)
        adam.step()
        lane.count(ROWS)
        fvu, l0 = lane.last_fvu_l0()
        out["loss"].append(float(loss.detach()))
        out["l0"].append(l0)
        out["fvu"].append(fvu)
        (norm,) = adam.grad_norms
        assert norm is not None
        out["norm"].append(float(norm))
    out["averages"] = list(lane.take_averages().values())
    out["dead"] = lane.dead_share(ROWS)
    out["state"] = {name: value.detach().clone() for name, value in sae.state_dict().items()}
    out["moments"] = {name: adam.state[p]["exp_avg_sq"] for name, p in sae.named_parameters() if p in adam.state}
    density = lane.take_density()
    assert density is not None
    out["density"] = density
    sae.eval()
    x = torch.randn(ROWS, D, generator=generator, dtype=dtype)
    shown = sae(x)
    assert shown.features.d_sae == D_SAE
    out["y_hat"], out["features"] = shown.y_hat.detach(), shown.features.dense().detach()
    out["decoded"] = sae.decode(sae.encode(x)).detach()
    out["dims"] = {name: feature_dim(sae, name) for name in sae.state_dict()}
    return out


def every_case(ranks: Ranks) -> dict[str, dict[str, Any]]:
    return {name: trained(case, ranks) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def two() -> list[dict[str, dict[str, Any]]]:
    return together(every_case, 2)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_what_one_does(name: str, two: list[dict[str, dict[str, Any]]]) -> None:
    one, parts = trained(CASES[name], ALONE), [rank[name] for rank in two]
    rtol, atol = (1e-4, 1e-5) if CASES[name].execution.get("product") else (1e-9, 1e-11)
    for figure in ("loss", "norm"):
        for part in parts:
            assert part[figure] == pytest.approx(one[figure], rel=rtol), figure
    for figure in ("l0", "fvu", "averages"):  # kept in float32
        for part in parts:
            assert part[figure] == pytest.approx(one[figure], rel=1e-4), figure
    for group in ("state", "moments"):
        for key, value in one[group].items():
            dim, held = one["dims"][key], [part[group][key] for part in parts]
            if dim is None:
                assert torch.equal(*held), f"{key} is everybody's and must be the same to the bit"
            found = held[0] if dim is None else torch.cat(held, dim)
            assert torch.allclose(found, value, rtol=rtol, atol=atol), f"{group} {key}"
    for figure in ("density", "y_hat", "features", "decoded"):
        for part in parts:
            torch.testing.assert_close(part[figure], one[figure], rtol=rtol, atol=atol)
    assert parts[0]["dead"] == parts[1]["dead"] == one["dead"]

"""Downstream losses: the formulas, exact for the identity, undefined where an ablation costs nothing."""

import pytest
import torch

from sae_lightning.core import torch_generator
from sae_lightning.metrics import DownstreamLoss


def fill(metric: DownstreamLoss, ce: dict[str, torch.Tensor], kl: dict[str, torch.Tensor]) -> None:
    metric.update_clean(ce["clean"])
    for run in ("spliced", "zero", "mean"):
        metric.update_run(run, ce[run], kl[run])


def losses(n: int = 90) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    g = torch_generator(0)
    ce = {
        run: torch.rand(n, generator=g) * scale
        for run, scale in [("clean", 3), ("spliced", 4), ("zero", 9), ("mean", 7)]
    }
    return ce, {run: torch.rand(n, generator=g) for run in ("spliced", "zero", "mean")}


def test_formulas_and_merging() -> None:
    ce, kl = losses()
    parts = [DownstreamLoss() for _ in range(3)]
    for i, part in enumerate(parts):
        fill(
            part,
            {k: v[i * 30 : i * 30 + 30] for k, v in ce.items()},
            {k: v[i * 30 : i * 30 + 30] for k, v in kl.items()},
        )
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    values = parts[0].compute()
    mean = {k: float(v.double().mean()) for k, v in ce.items()}
    div = {k: float(v.double().mean()) for k, v in kl.items()}
    expected = {
        "ce_clean": mean["clean"],
        "ce_spliced": mean["spliced"],
        "delta_ce": mean["spliced"] - mean["clean"],
        "kl": div["spliced"],
    }
    for run in ("zero", "mean"):
        expected[f"ce_{run}"] = mean[run]
        expected[f"ce_recovered_{run}"] = (mean[run] - mean["spliced"]) / (mean[run] - mean["clean"])
        expected[f"kl_recovered_{run}"] = (div[run] - div["spliced"]) / div[run]
    assert values == pytest.approx(expected, rel=1e-12)


def test_identity_recovers_everything_exactly() -> None:
    ce, kl = losses()
    metric = DownstreamLoss()
    fill(metric, ce | {"spliced": ce["clean"]}, kl | {"spliced": torch.zeros(90)})
    values = metric.compute()
    assert values["delta_ce"] == 0.0
    assert values["ce_recovered_zero"] == values["ce_recovered_mean"] == 1.0
    assert values["kl_recovered_zero"] == values["kl_recovered_mean"] == 1.0


def test_an_ablation_without_cost_recovers_nothing_defined() -> None:
    ce, kl = losses()
    metric = DownstreamLoss()
    fill(metric, ce | {"zero": ce["clean"]}, kl)
    assert metric.compute()["ce_recovered_zero"] != metric.compute()["ce_recovered_zero"]


def test_unknown_run_is_refused() -> None:
    with pytest.raises(AssertionError):
        DownstreamLoss().update_run("mangled", torch.ones(1), torch.ones(1))

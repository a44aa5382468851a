"""FVU: exact at its two ends, and the same however the tokens are cut up, also where the mean dwarfs the spread."""

import pytest
import torch

from sae_lightning.core import torch_generator
from sae_lightning.metrics import FVU


def rows(n: int, d: int, gamma: float, std: float = 1.0) -> torch.Tensor:
    g = torch_generator(0, "tests", "fvu", n, d)
    spread = std * torch.randn(n, d, generator=g, dtype=torch.float64)
    direction = torch.randn(d, generator=g, dtype=torch.float64)
    return (spread + gamma * std * d**0.5 * direction / direction.norm()).float()


def naive(y: torch.Tensor, y_hat: torch.Tensor) -> float:
    """Two passes in float64."""
    y, y_hat = y.double(), y_hat.double()
    return float((y - y_hat).square().sum() / (y - y.mean(0)).square().sum())


def measured(y: torch.Tensor, y_hat: torch.Tensor, sizes: list[int]) -> float:
    metric = FVU(y.shape[1])
    for a, b in zip(y.split(sizes), y_hat.split(sizes), strict=True):
        metric.update(a, b)
    return metric.compute()["fvu"]


@pytest.mark.parametrize("gamma", [0.0, 1.0, 50.0, 1000.0])
@pytest.mark.parametrize("sizes", [[600], [1] * 600, [7, 93, 500], [599, 1]])
def test_equals_two_passes_whatever_the_batches(gamma: float, sizes: list[int]) -> None:
    y = rows(600, 24, gamma)
    y_hat = y + 0.3 * rows(600, 24, 0.0)
    assert measured(y, y_hat, sizes) == pytest.approx(naive(y, y_hat), rel=1e-9)


def test_mean_30_std_1() -> None:
    y = 30 + rows(1000, 16, 0.0)
    y_hat = 0.9 * (y - 30) + 30
    assert measured(y, y_hat, [100] * 10) == pytest.approx(naive(y, y_hat), abs=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 50.0])
def test_mean_predictor_is_1_and_identity_is_0(gamma: float) -> None:
    y = rows(500, 12, gamma)
    mean = y.double().mean(0).expand(500, -1)
    assert measured(y, mean, [123, 377]) == pytest.approx(1.0, abs=1e-12)
    assert measured(y, y, [123, 377]) == 0.0
    metric = FVU(12)
    metric.update(y, y)
    assert metric.compute() == {"fvu": 0.0, "explained_variance": 1.0, "mse": 0.0}


def test_does_not_depend_on_order_or_process() -> None:
    y = rows(400, 10, 50.0)
    y_hat = y + rows(400, 10, 0.1)
    order = torch.randperm(400, generator=torch_generator(1))
    whole = measured(y, y_hat, [400])
    assert measured(y[order], y_hat[order], [37] * 10 + [30]) == pytest.approx(whole, rel=1e-9)
    parts = [FVU(10) for _ in range(4)]  # the last one sees nothing
    for part, a, b in zip(parts, y.split([10, 200, 190]), y_hat.split([10, 200, 190]), strict=False):
        part.update(a, b)
    copy = FVU(10)
    copy.load_state(parts[3].state())
    for part in parts:
        copy.merge(part)
    assert copy.compute()["fvu"] == pytest.approx(whole, rel=1e-9)
    assert int(copy.n) == 400


def test_mse_is_over_tokens_and_dimensions() -> None:
    y = rows(50, 6, 0.0)
    metric = FVU(6)
    metric.update(y, torch.zeros_like(y))
    assert metric.compute()["mse"] == pytest.approx(float(y.double().square().mean()), rel=1e-12)


def test_without_tokens_there_is_no_value() -> None:
    metric = FVU(3)
    metric.update(torch.zeros(0, 3), torch.zeros(0, 3))
    assert all(value != value for value in metric.compute().values())


def test_a_constant_error_counts() -> None:
    """Explained variance of the residual is blind to it; fvu is not."""
    y = rows(300, 5, 0.0)
    metric = FVU(5)
    metric.update(y, y + 1.0)
    expected = 300 * 5 / float((y.double() - y.double().mean(0)).square().sum())
    assert metric.compute()["fvu"] == pytest.approx(expected, rel=1e-6)

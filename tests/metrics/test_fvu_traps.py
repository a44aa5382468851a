"""Where formulas in use go wrong on data whose mean dwarfs its spread, and ours does not."""

import pytest
import torch
from torch import Tensor

from sae_lightning.core import torch_generator
from sae_lightning.metrics import FVU, Alignment, PerTokenEV, ResidualVarianceEV, RunningMetric

N, D = 2048, 64


@pytest.fixture(scope="module")
def y() -> Tensor:
    """Mean 30, standard deviation 1 in every dimension: what a residual stream with an outlier direction is like."""
    return 30 + torch.randn(N, D, generator=torch_generator(0, "tests", "traps"), dtype=torch.float64)


def reconstructions(y: Tensor) -> dict[str, tuple[Tensor, float]]:
    """Return reconstructions and their explained variance by its definition, in float64 and two passes."""
    noise = torch.randn(N, D, generator=torch_generator(1, "tests", "traps"), dtype=torch.float64)
    made = {
        "identity": y,
        "half of the spread lost": 30 + 0.5 * (y - 30),
        "mean": y.mean(0).expand_as(y),
        "worse than the mean": y + 2 * noise,
        "zero": torch.zeros_like(y),
    }
    spread = (y - y.mean(0)).square().sum()
    return {name: (y_hat, float(1 - (y - y_hat).square().sum() / spread)) for name, y_hat in made.items()}


def saebench_explained_variance(y: Tensor, y_hat: Tensor, batch: int = 512) -> float:
    """The formula of SAEBench 0.6: ``1 - mean ||y - y_hat||^2 / (mean ||y||^2 - s^2)``.

    ``s`` should be the mean activation of each dimension. It is the mean of the *squared* activations, over dimensions
    too, and one square of it is taken off the sum of all dimensions' squares: with mean m and spread 1 the denominator
    is ``D (m^2 + 1) - (m^2 + 1)^2``, below 0 as soon as m^2 + 1 exceeds the width.
    """
    parts = list(zip(y.split(batch), y_hat.split(batch), strict=True))
    squares = torch.stack([a.square().sum(-1).mean() for a, _ in parts]).mean()
    s = torch.cat([a.square().mean(0) for a, _ in parts]).mean()
    residual = torch.stack([(a - b).square().sum(-1).mean() for a, b in parts]).mean()
    return float(1 - residual / (squares - s.square()))


def measured(metric: RunningMetric, y: Tensor, y_hat: Tensor, size: int = N) -> dict[str, float]:
    for a, b in zip(y.split(size), y_hat.split(size), strict=True):
        metric.update(a, b)  # pyright: ignore[reportAttributeAccessIssue]
    return metric.compute()


def test_side_by_side_with_saebench(y: Tensor) -> None:
    """Theirs is above 1 whatever is lost, and the more is lost the higher it is."""
    table = {
        name: (true, measured(FVU(D), y, y_hat)["explained_variance"], saebench_explained_variance(y, y_hat))
        for name, (y_hat, true) in reconstructions(y).items()
    }
    for name, (true, ours, _) in table.items():
        assert ours == pytest.approx(true, rel=1e-9, abs=1e-9), name
    theirs = [value for _, _, value in table.values()]
    assert theirs[0] == 1.0
    assert all(value > 1 for value in theirs[1:]), table
    assert theirs == sorted(theirs), "worse reconstructions score higher"
    ours = [value for _, value, _ in table.values()]
    assert ours == sorted(ours, reverse=True)
    assert ours[1] == pytest.approx(0.75, abs=0.01)
    assert ours[4] < -800


def test_the_formula_is_fine_only_near_zero_mean(y: Tensor) -> None:
    """Without a mean, and in a wide space, the two agree: the error goes unseen where it is usually looked for."""
    wide = (y - 30).repeat(1, 16)
    wide = wide + 0.01 * torch.randn(wide.shape, generator=torch_generator(2), dtype=torch.float64)
    ours = measured(FVU(16 * D), wide, 0.5 * wide)["explained_variance"]
    assert saebench_explained_variance(wide, 0.5 * wide) == pytest.approx(ours, abs=2e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_mean_predictor_and_identity(y: Tensor, dtype: torch.dtype) -> None:
    y = y.to(dtype)
    mean = y.double().mean(0).expand(N, -1)
    assert measured(FVU(D), y, mean, 100)["fvu"] == pytest.approx(1.0, abs=1e-12)
    assert measured(FVU(D), y, y, 100) == {"fvu": 0.0, "explained_variance": 1.0, "mse": 0.0}


def test_a_constant_error_is_seen_by_fvu_alone(y: Tensor) -> None:
    shifted = y + 3.0
    assert measured(ResidualVarianceEV(D), y, shifted)["ev_residual_variance"] == pytest.approx(1.0)
    assert measured(FVU(D), y, shifted)["fvu"] == pytest.approx(9.0, rel=0.01)


def test_a_mean_of_ratios_is_another_number(y: Tensor) -> None:
    """A few tokens far out carry the variance: losing them costs fvu everything, a mean over tokens next to nothing."""
    data = y.clone()
    data[:20] = 30 + 100 * (data[:20] - 30)
    y_hat = data.clone()
    y_hat[:20] = data.mean(0)
    per_token = measured(PerTokenEV(data.mean(0)), data, y_hat)["ev_per_token"]
    assert per_token > 0.98
    assert measured(FVU(D), data, y_hat)["explained_variance"] < 0.02


def test_float32_sums_would_be_wrong(y: Tensor) -> None:
    """Why sums are float64 and centred: E||y||^2 - ||E y||^2 in float32 loses the third digit at mean 3,000."""
    far = (100 * 30 + (y - 30)).float()
    y_hat = far + 0.5 * (y - 30).float()
    true = float((far.double() - y_hat.double()).square().sum() / (far.double() - far.double().mean(0)).square().sum())
    naive = float((far - y_hat).square().sum(1).mean() / (far.square().sum(1).mean() - far.mean(0).square().sum()))
    assert measured(FVU(D), far, y_hat, 64)["fvu"] == pytest.approx(true, rel=1e-9)
    assert abs(naive / true - 1) > 1e-3


METRICS = {
    "fvu": lambda y: FVU(D),
    "ev_residual_variance": lambda y: ResidualVarianceEV(D),
    "ev_per_token": lambda y: PerTokenEV(y.mean(0)),
    "alignment": lambda y: Alignment(),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 37, 512, N])
def test_figures_do_not_depend_on_batches_order_or_processes(y: Tensor, name: str, parts: int, size: int) -> None:
    y_hat = 0.9 * y + 2 + 0.3 * torch.randn(N, D, generator=torch_generator(4), dtype=torch.float64)
    whole = measured(METRICS[name](y), y, y_hat)
    order = torch.randperm(N, generator=torch_generator(5))
    shares = [METRICS[name](y) for _ in range(parts)]
    for metric, rows in zip(shares, order.chunk(parts), strict=True):
        measured(metric, y[rows], y_hat[rows], size)
    total = METRICS[name](y)
    for metric in shares:
        copy = METRICS[name](y)
        copy.load_state(metric.state())  # as it travels between processes
        total.merge(copy)
    for figure, value in total.compute().items():
        assert value == pytest.approx(whole[figure], rel=1e-9), figure

"""Latent scaling: its sums against least squares, and what it makes of a crosscoder's known errors."""

import numpy as np
import pytest
import torch

from sae_lightning.activations.synthetic.two_models import SHARED as IN_BOTH
from sae_lightning.core import torch_generator
from sae_lightning.sae import JumpReLUSAE
from sae_lightning.studies import Result, Subject
from sae_lightning.studies.evaluation import LatentScalingStudy, SitesStudy
from sae_lightning.studies.passes import read_unit
from sae_lightning.studies.subject import BLOCK_ROWS, inference
from tests.studies.planted_pair import SCALES, WIDTH, pair, reader, subject


def run(about: Subject, **settings) -> Result:
    return LatentScalingStudy(**settings, show_progress=False).run(about)


def noisy() -> tuple[JumpReLUSAE, torch.Tensor]:
    """Return an SAE of two models that is wrong here and there, and rows with more in them than it knows."""
    generator = torch_generator(0, "scaling")
    model = pair()
    sae = reader(model)
    for parameter in (sae.W_enc, sae.W_dec):
        parameter.data += torch.randn(parameter.shape, generator=generator) / 10
    x = model.blocks(range(3))[0]
    return sae, x + torch.randn(x.shape, generator=generator) / 10


def test_betas_are_those_of_least_squares() -> None:
    sae, x = noisy()
    result = run(Subject(sae, rows=x), rows=16)
    with torch.no_grad():
        out = sae(x)
    scale = torch.tensor(SCALES).repeat_interleave(WIDTH).double()
    f = out.features.dense().double()
    y_hat, bias = out.y_hat.double() * scale, sae.b_dec.detach().double() * scale
    rows = sae.W_dec.detach().double() * scale
    parts = (slice(0, WIDTH), slice(WIDTH, 2 * WIDTH))
    norms = torch.stack([rows[:, part].norm(dim=1) for part in parts], dim=1)
    table = result.tables["features"]
    assert len(table.rows) == 16
    for row in table.rows:
        found = dict(zip(table.columns, row, strict=True))
        j = found["feature"]
        assert isinstance(j, int)
        stronger = int(norms[j].argmax())
        assert found["stronger"] == ("base", "tuned")[stronger]
        d = rows[j, parts[stronger]]
        on = f[:, j] > 0
        design = (f[on, j, None] * d).flatten()[:, None]
        for name, whole, own in (("nu_error", x.double() * scale - y_hat, 1), ("nu_reconstruction", y_hat - bias, 0)):
            betas = []
            for part in parts:
                target = whole[on][:, part] + own * f[on, j, None] * rows[j, part]
                betas.append(float(torch.linalg.lstsq(design, target.flatten()[:, None]).solution))
            assert found[name] == pytest.approx(betas[1 - stronger] / betas[stronger], rel=1e-6), name


def test_the_interval_of_a_feature_has_the_spread_of_resampled_windows() -> None:
    sae, x = noisy()
    found = run(Subject(sae, rows=x), rows=16).tables["features"]
    half = {row[0]: (row[found.columns.index("high")] - row[4]) / 2.07 for row in found.rows}  # type: ignore[operator]
    n = -(-len(x) // BLOCK_ROWS)
    rng = np.random.default_rng(0)
    drawn: dict[int, list[float]] = {j: [] for j in half}  # type: ignore[misc]
    blocks = [x[i * BLOCK_ROWS : (i + 1) * BLOCK_ROWS] for i in range(n)]
    for _ in range(60):
        again = torch.cat([blocks[i] for i in rng.integers(0, n, n)])
        for row in run(Subject(sae, rows=again), rows=16).tables["features"].rows:
            drawn[row[0]].append(row[4])  # type: ignore[index,arg-type]
    ratios = [np.std(values) / half[j] for j, values in drawn.items()]
    assert np.median(ratios) == pytest.approx(1, abs=0.2)


def test_an_sae_that_reads_the_truth_off_is_right() -> None:
    model = pair()
    result = run(subject(reader(model), model))
    values = result.values
    assert values["scaled_right"] == 1
    assert values["scaled_shared"] == pytest.approx(8 / 16)
    assert values["scaled_only/base"] == values["scaled_only/tuned"] == pytest.approx(4 / 16)
    assert values["scaled_overturned"] == 0
    halves = model.directions.unflatten(1, (2, WIDTH)).norm(dim=2) * torch.tensor(SCALES)
    for row in result.tables["features"].rows:
        feature, nu = row[0], row[4]
        assert isinstance(feature, int)
        assert nu == pytest.approx(float(halves[feature].min() / halves[feature].max()), abs=1e-4)


def test_complete_shrinkage_is_seen_in_the_error() -> None:
    """The weaker half of shared features is gone, as an L1 penalty does it: the norms are wrong, scaling is right."""
    model = pair()
    shared = (model.kind_of == IN_BOTH).nonzero()[:, 0]
    halves = model.directions.unflatten(1, (2, WIDTH)).norm(dim=2) * torch.tensor(SCALES)
    decoder = model.directions.clone()
    for j in shared[:5].tolist():
        weaker = int(halves[j].argmin())
        decoder[j, weaker * WIDTH : (weaker + 1) * WIDTH] = 0
    about = subject(reader(model, decoder), model)
    assert SitesStudy(show_progress=False).run(about).values["norm_invented"] == pytest.approx(5 / 8)
    values = run(about).values
    assert values["scaled_right"] == 1
    assert values["scaled_invented"] == 0
    assert values["scaled_overturned"] == pytest.approx(5 / 13)


def test_latent_decoupling_is_seen_in_the_reconstruction() -> None:
    """A shared feature is written by two features, one a model: the error holds nothing of it, the sum does."""
    model = pair(least_strength=0.6)
    features = [*range(16), *range(16)]
    decoder = model.directions[features].clone()
    decoder[:16, WIDTH:] = 0
    decoder[16:, :WIDTH] = 0
    keep = decoder.norm(dim=1) > 0
    about = subject(
        reader(model, decoder[keep], [f for f, kept in zip(features, keep.tolist(), strict=True) if kept]), model
    )
    assert SitesStudy(show_progress=False).run(about).values["norm_invented"] == 1
    values = run(about).values
    assert values["scaled_right"] == 1
    assert values["scaled_overturned"] == pytest.approx(16 / 24)
    errors_alone = run(about, reconstruction=0.999).values  # no weaker half reaches the stronger one
    assert (errors_alone["scaled_right"] or 0) < 1


def test_rare_features_are_left_out_and_every_figure_has_an_interval() -> None:
    model = pair()
    with inference(sae := reader(model)):
        fires = read_unit(about := subject(sae, model, 4), [0, 1, 2, 3]).features.counts()
    cut = int(fires.median()) + 1
    result = run(about, min_firings=cut)
    assert len(result.tables["features"].rows) == int((fires >= cut).sum()) < 16
    many = run(subject(sae, model, 16))
    for name, estimate in many.estimates.items():
        assert estimate.low is not None, name
        assert estimate.high is not None, name


def test_other_saes_are_told_why_not() -> None:
    model = pair()
    sae = reader(model)
    assert LatentScalingStudy().reason(subject(sae, model)) is None
    sae.metadata["sites"]["write"] = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
    assert "two models" in str(LatentScalingStudy().reason(subject(sae, model)))
    sae.metadata["sites"] |= {"write": ["base/a", "tuned/a"], "widths_out": [WIDTH - 4, WIDTH + 4]}
    assert "no basis in common" in str(LatentScalingStudy().reason(subject(sae, model)))

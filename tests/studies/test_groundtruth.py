"""Ground truth of SAEs whose score is known beforehand."""

import dataclasses

import numpy as np
import pytest
import torch

from sae_lightning.activations.synthetic import SyntheticModel
from sae_lightning.core import UserError
from sae_lightning.sae import JumpReLUSAE
from sae_lightning.studies import Subject
from sae_lightning.studies.evaluation import GroundTruthStudy
from sae_lightning.studies.evaluation.compare import CompareStudy
from tests.activations.synthetic.small import small

N = 16


@pytest.fixture(scope="module")
def model() -> SyntheticModel:
    """Sixteen orthogonal features in sixteen dimensions: an SAE can be perfect."""
    found = small(num_features=N)
    found.directions = torch.linalg.qr(found.directions.T).Q.T.contiguous()
    return found


def oracle(model: SyntheticModel, features: list[int], scale: float = 1.0) -> JumpReLUSAE:
    """Return the SAE that reads the given true features off, with decoder rows of length 2."""
    sae = JumpReLUSAE(N, len(features))
    directions = model.directions[features]
    state = sae.state_dict() | {
        "W_enc": directions.T.clone(),
        "W_dec": 2 * directions,
        "b_dec": model.bias.clone(),
        "b_enc": torch.zeros(len(features)),
        "log_theta": torch.full((len(features),), 1e-3).log(),
    }
    sae.load_state_dict(state)
    sae.eval()
    with torch.no_grad():
        sae.W_enc.mul_(scale / 2)
    return sae


def run(model: SyntheticModel, sae: JumpReLUSAE, blocks: int = 6, **settings) -> dict[str, float | None]:
    subject = Subject(sae, windows=range(blocks), truth=model)
    return GroundTruthStudy(draws=200, show_progress=False, **settings).run(subject).values


def test_reading_the_true_features_off_scores_one_in_any_order(model: SyntheticModel) -> None:
    order = np.random.default_rng(0).permutation(N).tolist()
    values = run(model, oracle(model, order))
    for name in ("mmcs", "mcc", "uniqueness", "f1", "precision", "recall", "shrinkage", "explained_variance"):
        assert values[name] == pytest.approx(1, abs=1e-4), name
    rates = model.firing_probabilities
    assert values["true_l0"] == pytest.approx(float(rates.sum()), rel=0.05)


def test_half_of_the_features_each_learned_twice(model: SyntheticModel) -> None:
    values = run(model, oracle(model, [*range(8), *range(8)], scale=0.5))
    assert values["uniqueness"] == pytest.approx(0.5)
    assert values["mmcs"] == pytest.approx(0.5, abs=1e-4), "the other half is orthogonal to all of them"
    assert values["mcc"] == pytest.approx(0.5, abs=1e-4)
    assert values["f1"] == pytest.approx(1, abs=1e-3)
    assert values["shrinkage"] == pytest.approx(0.5, abs=1e-4)


def test_fewer_latents_than_features_are_matched_among_those_there_are(model: SyntheticModel) -> None:
    values = run(model, oracle(model, [3, 1, 2]))
    assert values["mcc"] == pytest.approx(1, abs=1e-4)
    assert values["mmcs"] == pytest.approx(3 / N, abs=1e-4)
    assert values["uniqueness"] == 1


def test_every_estimate_has_an_interval_around_it_and_the_table_names_matches(model: SyntheticModel) -> None:
    sae = oracle(model, list(range(12)))
    with torch.no_grad():
        sae.W_dec.add_(0.5 * torch.randn(12, N, generator=torch.Generator().manual_seed(0)))
        sae.W_enc.add_(0.1 * torch.randn(N, 12, generator=torch.Generator().manual_seed(1)))
    result = GroundTruthStudy(rows=5, draws=300, show_progress=False).run(Subject(sae, windows=range(8), truth=model))
    assert {"mmcs", "mcc", "uniqueness", "f1", "precision", "recall", "shrinkage", "explained_variance"} <= set(
        result.estimates
    )
    for name, estimate in result.estimates.items():
        assert estimate.value is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high, name
        assert estimate.tokens == 8 * 1024
        assert result.draws[name].shape == (300,)
    f1 = result.estimates["f1"]
    assert (f1.high or 0) - (f1.low or 0) > 1e-4
    table = result.tables["latents"]
    assert len(table.rows) == 5
    fires = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    rates = [float(row["fires"] or 0) for row in fires]
    assert rates == sorted(rates, reverse=True)
    cosines = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1) @ model.directions.T
    for row in fires:
        assert row["true_feature"] == int(cosines[int(row["latent"] or 0)].abs().argmax())


def test_figures_are_those_of_the_rows_alone(model: SyntheticModel) -> None:
    sae = oracle(model, list(range(12)))
    study = GroundTruthStudy(draws=100, show_progress=False)
    one = study.run(Subject(sae, windows=[0, 1, 2, 3, 4], truth=model))
    other = study.run(Subject(sae, windows=[3, 4, 0, 2, 1], truth=model))
    assert one.values == pytest.approx(other.values, rel=1e-9)
    assert study.run(Subject(sae, windows=[0, 1, 2, 3, 4], truth=model)).to_json() == one.to_json()


def test_it_is_for_data_whose_features_are_known(model: SyntheticModel) -> None:
    subject = Subject(oracle(model, [0]), rows=torch.zeros(4, N))
    study = GroundTruthStudy(show_progress=False)
    assert "data=synthetic" in str(study.reason(subject))
    with pytest.raises(UserError, match="data=synthetic"):
        study.run(subject)


def test_two_saes_are_compared_on_the_same_truth(model: SyntheticModel) -> None:
    good, poor = oracle(model, list(range(N))), oracle(model, [*range(8), *range(8)])
    subjects = {name: Subject(sae, windows=range(6), truth=model) for name, sae in (("good", good), ("poor", poor))}
    study = GroundTruthStudy(draws=200, show_progress=False)
    results = {name: {study.name: study.run(subject)} for name, subject in subjects.items()}
    table = CompareStudy().run_all(subjects, results).tables["differences"]
    verdicts = {row[1]: row[-1] for row in table.rows}
    assert verdicts["mcc"] == verdicts["uniqueness"] == "good better"
    assert dataclasses.is_dataclass(results["good"]["groundtruth"])

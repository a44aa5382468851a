"""Several written sites: fvu of each, and whose a feature is by its decoder norm."""

import pytest
import torch

from sae_lightning.activations.synthetic.two_models import BASE_ONLY, TUNED_ONLY
from sae_lightning.activations.synthetic.two_models import SHARED as IN_BOTH
from sae_lightning.core import torch_generator
from sae_lightning.sae import StandardSAE
from sae_lightning.studies import Result, Subject
from sae_lightning.studies.evaluation import SitesStudy
from sae_lightning.studies.sharing import SHARED, Written, kinds_by_norm
from tests.studies.planted_pair import SCALES, WIDTH, pair, reader, subject


def run(about: Subject, **settings) -> Result:
    return SitesStudy(**settings, show_progress=False).run(about)


def three_sites() -> StandardSAE:
    """Return an SAE of three sites of widths 3, 5 and 4 with random weights."""
    sae = StandardSAE(12, 10, site_widths=(3, 5, 4))
    generator = torch_generator(0, "sites")
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 3
    names = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post", "blocks.3.hook_resid_post"]
    sites = {"read": names, "write": names, "widths": [3, 5, 4], "widths_out": [3, 5, 4], "scale_out": [1, 0.5, 4]}
    sae.metadata = {"sites": sites}
    return sae.eval()


def test_fvu_of_a_site_is_that_of_its_columns() -> None:
    sae = three_sites()
    x = torch.randn(2000, 12, generator=torch_generator(1, "sites")) + 1
    result = run(Subject(sae, rows=x))
    with torch.no_grad():
        y_hat = sae(x).y_hat.double()
    y = x.double()
    for name, part in zip(sae.metadata["sites"]["write"], (slice(0, 3), slice(3, 8), slice(8, 12)), strict=True):
        error = (y_hat - y)[:, part].square().sum()
        wanted = float(error / (y - y.mean(0))[:, part].square().sum())
        found = result.estimates[f"fvu/{name}"]
        assert found.value == pytest.approx(wanted, rel=1e-9)
        assert found.low is not None
        assert found.high is not None
        assert found.low < wanted < found.high
        assert result.values[f"explained_variance/{name}"] == pytest.approx(1 - wanted, rel=1e-9)


def test_shares_are_of_norms_as_training_scaled_the_sites() -> None:
    sae = three_sites()
    written = Written.of(sae)
    norms = torch.stack(
        [sae.W_dec[:, :3].norm(dim=1), 0.5 * sae.W_dec[:, 3:8].norm(dim=1), 4 * sae.W_dec[:, 8:].norm(dim=1)], dim=1
    ).detach()
    torch.testing.assert_close(written.shares(sae).float(), norms / norms.sum(1, keepdim=True))
    assert tuple(written.parts) == written.names
    # Folded into other raw units, with the numbers that say so: the same shares.
    folded = three_sites()
    with torch.no_grad():
        folded.W_dec[:, 8:].mul_(7)
    folded.metadata["sites"]["scale_out"] = [1, 0.5, 4 / 7]
    torch.testing.assert_close(Written.of(folded).shares(folded), written.shares(sae))


def test_two_models_of_several_layers_are_two_parts() -> None:
    sae = three_sites()
    sae.metadata["sites"]["write"] = ["base/a", "base/b", "tuned/a"]
    written = Written.of(sae)
    assert written.parts == {"base": slice(0, 8), "tuned": slice(8, 12)}
    by_site = [4 * sae.W_dec[:, 8:].norm(dim=1), sae.W_dec[:, :3].norm(dim=1) + 0.5 * sae.W_dec[:, 3:8].norm(dim=1)]
    tuned, base = (part.detach().double() for part in by_site)
    torch.testing.assert_close(written.shares(sae)[:, 1], tuned / (tuned + base))


def test_kinds_follow_the_cut_and_a_row_of_zeros_is_nobodys() -> None:
    shares = torch.tensor([[0.95, 0.05], [0.05, 0.95], [0.9, 0.1], [0.5, 0.5], [torch.nan, torch.nan]])
    assert kinds_by_norm(shares, 0.9).tolist() == [0, 1, SHARED, SHARED, SHARED]


def test_an_sae_that_reads_the_truth_off_is_right_about_every_feature() -> None:
    model = pair()
    result = run(subject(reader(model), model))
    values = result.values
    assert values["norm_right"] == 1
    assert values["norm_invented"] == 0
    assert values["norm_shared"] == pytest.approx(8 / 16)
    assert values["norm_only/base"] == values["norm_only/tuned"] == pytest.approx(4 / 16)
    halves = model.directions.unflatten(1, (2, WIDTH)).norm(dim=2) * torch.tensor(SCALES)
    shares = halves[:, 1] / halves.sum(1)
    assert values["norm_even"] == pytest.approx(int(((2 * shares - 1).abs() <= 0.2).sum()) / 16)
    fires = torch.stack([model.block(n)[1].counts() for n in range(10)]).sum(0) / 10240
    for kind, name in ((IN_BOTH, "shared"), (BASE_ONLY, "base only"), (TUNED_ONLY, "tuned only")):
        assert values[f"norm_l0/{name}"] == pytest.approx(float(fires[model.kind_of == kind].sum()), rel=1e-3)
    rows = result.tables["features"].rows
    assert [row[-1] for row in rows[:8]].count("shared") == 0, "exclusive ones first"
    for feature, rate, base, tuned, said in rows:
        assert isinstance(feature, int)
        assert isinstance(tuned, float)
        assert rate == pytest.approx(float(fires[feature]), rel=1e-3)
        assert tuned == pytest.approx(float(shares[feature]), abs=1e-5)
        assert base == pytest.approx(1 - tuned)
        assert (
            said == {IN_BOTH: "shared", BASE_ONLY: "base only", TUNED_ONLY: "tuned only"}[int(model.kind_of[feature])]
        )
    counts = [int(row[2] or 0) for row in result.tables["share_histogram"].rows]
    assert sum(counts) == 16
    assert counts[0] == counts[-1] == 4


def test_a_shared_feature_whose_weaker_half_is_gone_counts_as_invented() -> None:
    model = pair()
    shared = (model.kind_of == IN_BOTH).nonzero()[:3, 0]
    decoder = model.directions.clone()
    decoder[shared, :WIDTH] = 0
    values = run(subject(reader(model, decoder), model)).values
    assert values["norm_invented"] == pytest.approx(3 / 8)
    assert values["norm_right"] == pytest.approx(13 / 16)
    assert values["norm_only/tuned"] == pytest.approx(7 / 16)


def test_features_that_never_fire_are_not_counted() -> None:
    model = pair()
    sae = reader(model)
    with torch.no_grad():
        sae.b_enc[model.kind_of == BASE_ONLY] = -100
    values = run(subject(sae, model)).values
    assert values["norm_only/base"] == 0
    assert values["norm_shared"] == pytest.approx(8 / 12)


def test_one_site_is_not_enough() -> None:
    about = Subject(StandardSAE(4, 3), rows=torch.zeros(2, 4))
    assert "several sites" in str(SitesStudy().reason(about))

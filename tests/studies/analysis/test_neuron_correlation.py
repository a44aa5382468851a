"""Features against neurons: the sums against dense numpy, which layers are asked about, and what is left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sae_lightning.activations import Harvester, MaskPolicy
from sae_lightning.core import Sites, UserError, torch_generator
from sae_lightning.sae.topk import TopKSAE
from sae_lightning.studies import Subject, layers_seen
from sae_lightning.studies.analysis import neuron_correlation as module
from sae_lightning.studies.analysis.cross_sums import Active, CrossSums
from sae_lightning.studies.analysis.neuron_correlation import NeuronCorrelationStudy
from sae_lightning.studies.passes import UNIT_TOKENS
from tests.studies.analysis.tiny_subject import tiny_subject


def study(**settings) -> NeuronCorrelationStudy:
    return NeuronCorrelationStudy(
        **{"min_firings": 3, "tokens": None, "control": 8, "show_progress": False, **settings}
    )


def dense(subject: Subject, layers: list[int]) -> tuple[NDArray, dict[int, NDArray]]:
    """Return features [n, F] and neurons [n, N] by layer of all kept tokens, float64, one window at a time."""
    lm, harvester = subject.lm, subject.harvester
    assert lm is not None
    assert harvester is not None
    assert harvester.mask is not None
    features, neurons = [], {layer: [] for layer in layers}
    for number in subject.windows:
        batch = harvester.windows.batch([number])
        sites = [f"blocks.{layer}.mlp.hook_post" for layer in layers]
        read = lm.activations(batch.tokens, [*harvester.sites.read, *sites])
        x = read[harvester.sites.read[0]]
        keep = harvester.mask.keep(batch, x)
        subject.sae.eval()
        with torch.no_grad():
            features.append(subject.sae.encode(x[keep]).dense().double().numpy())
        for layer, site in zip(layers, sites, strict=True):
            neurons[layer].append(read[site][keep].double().numpy())
    return np.concatenate(features), {layer: np.concatenate(parts) for layer, parts in neurons.items()}


def pearson(f: NDArray, n: NDArray) -> NDArray:
    """Return [F, N] the long way: centred columns, divided by their lengths."""
    f, n = f - f.mean(0), n - n.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (f.T @ n) / np.linalg.norm(f, axis=0)[:, None] / np.linalg.norm(n, axis=0)


def test_it_is_the_largest_of_all_correlations(tmp_path: Path) -> None:
    subject = tiny_subject(tmp_path)
    result = study(min_firings=60).run(subject)
    features, neurons = dense(subject, [0, 1])
    r = np.concatenate([pearson(features, neurons[layer]) for layer in (0, 1)], axis=1)
    width = neurons[0].shape[1]
    firings = (features != 0).sum(0)
    often = firings >= 60
    assert 0 < often.sum() < len(often)
    best = np.abs(np.nan_to_num(r)).argmax(1)
    arrays = result.arrays
    np.testing.assert_array_equal(arrays["neuron_layer"], np.where(often, best // width, -1))
    np.testing.assert_array_equal(arrays["neuron"], np.where(often, best % width, -1))
    expected = np.where(often, r[np.arange(len(r)), best], np.nan)
    np.testing.assert_allclose(arrays["neuron_correlation"], expected, rtol=1e-4)
    assert arrays["neuron_layer"].dtype == arrays["neuron"].dtype == np.int32
    values = np.abs(expected[often])
    assert result.values["neuron_correlation_mean"] == pytest.approx(values.mean(), rel=1e-4)
    assert result.values["neuron_correlation_share_0.3"] == pytest.approx((values > 0.3).mean())
    assert result.values["neuron_correlation_share_0.5"] == pytest.approx((values > 0.5).mean())
    estimate = result.estimates["neuron_correlation_mean"]
    assert estimate.tokens == often.sum()
    assert estimate.low is not None
    assert estimate.low < values.mean() < estimate.high  # type: ignore[operator]
    rows = result.tables["pairs"].rows
    assert [row[0] for row in rows] == sorted(
        np.flatnonzero(often), key=lambda i: (-abs(arrays["neuron_correlation"][i]), i)
    )
    assert all(row[4] == firings[row[0]] for row in rows)
    assert sum(row[1] for row in result.tables["layers"].rows) == often.sum()  # type: ignore[misc]


def test_a_feature_that_is_a_neuron_is_found_and_chance_is_far_below(tmp_path: Path) -> None:
    """The SAE reads the neurons themselves: feature i is neuron 3 i where it is above 0."""
    subject = tiny_subject(tmp_path, site="blocks.1.mlp.hook_post", d_sae=40, k=40)
    sae = subject.sae
    assert isinstance(sae, TopKSAE)
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.zero_()
        sae.b_dec.zero_()
        for i in range(40):
            sae.W_enc[3 * i, i] = 1.0
    result = study(control=40).run(subject)
    found = np.isfinite(result.arrays["neuron_correlation"])
    assert found.sum() > 20
    assert (result.arrays["neuron"][found] == 3 * np.flatnonzero(found)).mean() > 0.9
    real, chance = (result.values[f"neuron_correlation_{name}"] for name in ("mean", "shuffled"))
    assert real is not None
    assert chance is not None
    assert real > 2 * chance


def test_blocks_of_layers_and_the_number_of_tokens_change_what_they_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny_subject(tmp_path)
    whole = study().run(subject)
    again = study().run(subject)
    # Room for one layer at a time: two passes of the data, the same bits.
    monkeypatch.setattr(module, "_SUMS", UNIT_TOKENS * 128)
    assert len(study()._blocks({0: 128, 1: 128}, 48)) == 2
    blocks = study().run(subject)
    for name, values in whole.arrays.items():
        np.testing.assert_array_equal(values, again.arrays[name])
        np.testing.assert_array_equal(values, blocks.arrays[name])
    assert whole.values == again.values == blocks.values
    assert (
        study(seed=1).run(subject).values["neuron_correlation_shuffled"] != whole.values["neuron_correlation_shuffled"]
    )
    # One layer alone, and no control.
    one = study(layers=[0], control=0).run(subject)
    assert set(one.arrays["neuron_layer"]) <= {-1, 0}
    assert "neuron_correlation_shuffled" not in one.estimates


def test_units_are_spread_evenly(tmp_path: Path) -> None:
    subject = tiny_subject(tmp_path, context_length=16)
    many = replace(subject, windows=range(3000))
    units = study(tokens=UNIT_TOKENS * 3)._units(many)
    assert len(many.units()) == 12
    assert units == [many.units()[i] for i in (0, 4, 8)]
    assert study()._units(many) == many.units()


def test_sums_in_parts_are_sums_and_a_constant_neuron_has_no_correlation() -> None:
    g = torch_generator(0, "tests", "cross_sums")
    f = torch.randn(300, 7, generator=g).relu() * (torch.rand(300, 7, generator=g) < 0.3)
    n = 1e5 + torch.randn(300, 5, generator=g).double()
    n[:, 2] = 1e7 / 3
    n[:, 4] = n[:, 1]
    sums = CrossSums(7, 5)
    for first, last in ((0, 100), (100, 100), (100, 230), (230, 300)):  # one of them empty
        at = f[first:last].nonzero()
        pairs = at[:, 0], at[:, 1], f[first:last][at[:, 0], at[:, 1]]
        sums.add(Active.of(*pairs, (7, last - first)), n[first:last])
    wanted = np.arange(7) != 3
    neuron, r = sums.best(wanted)
    expected = np.nan_to_num(pearson(f.double().numpy(), n.numpy()[:, [0, 1, 3]]))
    best = np.abs(expected).argmax(1)
    assert sums.n == 300
    # Never the constant one; of the two equal ones the first.
    np.testing.assert_array_equal(neuron, np.where(wanted, np.array([0, 1, 3])[best], -1))
    np.testing.assert_allclose(r, np.where(wanted, expected[np.arange(7), best], np.nan), rtol=1e-6)


def test_what_is_not_known_of_a_site_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_subject(tmp_path, site="blocks.1.mlp.hook_in")
    assert len(study().run(subject).notes) == 1
    # As if the name told nothing.
    monkeypatch.setattr(layers_seen, "_BEFORE", ())
    result = study().run(subject)
    assert "blocks.1.mlp.hook_in is not known: taken to lie before the MLP of its block" in result.notes[1]
    assert "sees layer 0; studies.neuron_correlation.layers names others" in result.notes[1]
    assert "neurons of layers 0" in result.notes[0]
    assert len(study(layers=[0]).run(subject).notes) == 1


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    subject = tiny_subject(tmp_path)
    assert "needs a language model" in (study().reason(replace(subject, lm=None)) or "")
    assert subject.harvester is not None
    first = ("blocks.0.hook_resid_pre",)
    before = Harvester(subject.harvester.lm, Sites(first, first), subject.harvester.windows, MaskPolicy())
    below = replace(subject, harvester=before)
    assert "no MLP lies before" in (study().reason(below) or "")
    assert study(layers=[0]).reason(below) is None
    with pytest.raises(UserError, match="no MLP lies before"):
        study().run(below)
    with pytest.raises(UserError, match="layer 7 is out of range"):
        study(layers=[7]).run(subject)
    with pytest.raises(UserError, match=r"write \{layer\} where its number goes"):
        study(neurons="blocks.1.mlp.hook_post")
    nothing = study(min_firings=10**6).run(subject)
    assert nothing.values["neuron_correlation_mean"] is None
    assert nothing.tables["pairs"].rows == ()
    assert (nothing.arrays["neuron"] == -1).all()

"""Neurons as the control: read as they are, active as often as features, drawn from all layers below the SAE."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sae_lightning.core import UserError
from sae_lightning.studies.autointerp import neurons as module
from sae_lightning.studies.autointerp.neurons import Neurons, strongest
from sae_lightning.studies.autointerp.records import Unit
from tests.studies.analysis.tiny_subject import tiny_subject


def test_they_are_read_on_every_token_and_kept_where_they_are_strongest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny_subject(tmp_path)
    lm, harvester = subject.lm, subject.harvester
    assert lm is not None
    assert harvester is not None
    assert harvester.mask is not None
    units = [Unit("neuron", 3, 0), Unit("neuron", 0, 1), Unit("neuron", 7, 1)]
    control = Neurons(subject)
    found = control.read(units, 0.05, show=False)
    values, kept = [[] for _ in units], []
    for number in subject.windows:  # one window after the other, the long way
        batch = harvester.windows.batch([number])
        sites = ["blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"]
        read = lm.activations(batch.tokens, [*harvester.sites.read, *sites])
        real = batch.token_index >= 0
        kept.append(harvester.mask.keep(batch, read[harvester.sites.read[0]])[real].numpy())
        for unit, column in zip(units, values, strict=True):
            column.append(read[sites[unit.layer]][real][:, unit.index].float().numpy())
    mask = np.concatenate(kept)
    assert len(mask) == control.n_tokens
    for unit, column in zip(units, values, strict=True):
        naive = np.concatenate(column)
        tokens, active, floor = found.of(unit)
        assert len(tokens) == round(0.05 * mask.sum())
        assert mask[tokens].all()
        np.testing.assert_allclose(active, naive[tokens], rtol=1e-4)
        rest = np.setdiff1d(np.flatnonzero(mask), tokens)
        assert naive[rest].max() <= active.min() + 1e-5
        assert floor == pytest.approx(naive[rest].max(), rel=1e-4)
    monkeypatch.setattr(module, "_KEPT", 1)  # one neuron a pass
    again = control.read(units, 0.05, show=False)
    for unit in units:
        np.testing.assert_array_equal(again.of(unit).tokens, found.of(unit).tokens)


def test_only_what_is_kept_and_above_0_counts() -> None:
    values = np.array([3, -1, 5, 0, 2, 4, 9, 1], np.float32)
    kept = np.array([1, 1, 1, 1, 1, 1, 0, 1], bool)
    tokens, active, floor = strongest(values, kept, 2 / 7)
    assert tokens.tolist() == [2, 5]
    assert active.tolist() == [5, 4]
    assert floor == 3
    tokens, _, floor = strongest(values, kept, 1.0)
    assert tokens.tolist() == [0, 2, 4, 5, 7]
    assert floor == 0


def test_ties_with_the_first_left_out_are_left_out_too() -> None:
    values = np.array([2, 1, 1, 1, 3], np.float32)
    assert strongest(values, np.ones(5, bool), 0.6)[0].tolist() == [0, 4]
    assert len(strongest(np.ones(5, np.float32), np.ones(5, bool), 0.4)[0]) == 5


def test_they_are_drawn_from_all_layers_and_the_same_for_a_seed(tmp_path: Path) -> None:
    control = Neurons(tiny_subject(tmp_path))
    assert list(control.layers) == [0, 1]
    drawn = control.draw(12, 0)
    assert drawn == control.draw(12, 0) != control.draw(12, 1)
    assert len(set(drawn)) == 12
    assert {unit.layer for unit in drawn} == {0, 1}
    lm = control.subject.lm
    assert lm is not None
    assert len(control.draw(10**6, 0)) == sum(lm.site_width(f"blocks.{i}.mlp.hook_post") for i in (0, 1))


def test_what_has_no_neurons_is_refused(tmp_path: Path) -> None:
    subject = tiny_subject(tmp_path)
    with pytest.raises(UserError, match=r"write {layer} where its number goes"):
        Neurons(subject, "blocks.0.mlp.hook_post")
    with pytest.raises(UserError, match=r"n_neurons: .*can't be read again; set n_neurons=0"):
        Neurons(replace(subject, harvester=None))
    first = tiny_subject(tmp_path / "first", site="blocks.0.hook_resid_pre")
    with pytest.raises(UserError, match=r"no MLP lies before blocks.0.hook_resid_pre; set n_neurons=0"):
        Neurons(first).draw(3, 0)

"""Firings by text against dense arrays, and what they say about which text one reads."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from sae_lightning.studies import firings as module
from sae_lightning.studies.firings import Firings, firings_by_text
from tests.store.planted import made_up_texts, planted_store


def mutual_information(active: np.ndarray, group: np.ndarray) -> float:
    """Return I(active; group) in nats from the table of both, as textbooks have it."""
    total = 0.0
    for a, g in itertools.product((False, True), np.unique(group)):
        both = np.mean((active == a) & (group == g))
        if both > 0:
            total += both * np.log(both / (np.mean(active == a) * np.mean(group == g)))
    return total


@pytest.mark.parametrize(("groups", "chunk"), [(1024, 1 << 22), (5, 3)])
def test_counts_and_information(groups: int, chunk: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_GROUPS", groups)
    monkeypatch.setattr(module, "_CHUNK", chunk)
    planted = planted_store(tmp_path, density=0.2)
    found = firings_by_text(planted.store, show_progress=False)
    texts, kept = np.array(planted.store.text_index), planted.kept
    n_groups = min(groups, planted.store.n_texts)
    # Text t is in the last group that begins at or before it.
    starts = np.arange(n_groups) * planted.store.n_texts // n_groups
    group = np.searchsorted(starts, texts, side="right") - 1
    active = planted.dense > 0
    np.testing.assert_array_equal(found.n, np.bincount(group[kept], minlength=n_groups))
    for i in range(planted.store.d_sae):
        np.testing.assert_array_equal(found.counts[:, i], np.bincount(group[active[:, i]], minlength=n_groups))
    expected = [mutual_information(active[kept, i], group[kept]) for i in range(planted.store.d_sae)]
    np.testing.assert_allclose(found.information(), expected, atol=1e-12)
    assert found.information()[1] == 0.0  # dead


def test_what_fires_everywhere_alike_says_nothing() -> None:
    n = np.array([10.0, 20.0, 30.0])
    counts = np.stack([n / 10, n, 0 * n, np.array([6.0, 0, 0])], axis=1)
    information = Firings(n, counts).information()
    np.testing.assert_allclose(information[:3], 0.0, atol=1e-12)
    assert information[3] > 0.1


def test_memory_is_bounded_by_fewer_groups(tmp_path: Path, monkeypatch) -> None:
    planted = planted_store(tmp_path, texts=made_up_texts(40))
    monkeypatch.setattr(module, "_COUNTS", 12 * 10)
    assert len(firings_by_text(planted.store, show_progress=False).n) == 10
    monkeypatch.setattr(module, "_COUNTS", 1)
    assert len(firings_by_text(planted.store, show_progress=False).n) == 8

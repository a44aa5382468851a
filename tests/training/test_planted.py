"""Planted directions are found again: the whole training step does what it is for."""

from pathlib import Path

import pytest

from sae_lightning.sae import BatchTopKSAE, SparseAutoencoder, StandardSAE, TopKSAE
from tests.conftest import planted
from tests.training.plain import fit, mmcs

ARCHITECTURES = {
    "standard": lambda: StandardSAE(64, 256),
    "topk": lambda: TopKSAE(64, 256, k=4),
    "batch_topk": lambda: BatchTopKSAE(64, 256, k=4),
}


def trained(name: str, shift: float, folder: Path) -> tuple[float, float]:
    """Return (MMCS, share of dead features over the last half of training) on d 64, 128 directions, p 0.03, F 256."""
    rows, directions = planted(60_000, shift=shift)
    sae: SparseAutoencoder = ARCHITECTURES[name]()
    lane, folded = fit(sae, rows, folder, steps=600, lr=2e-3)
    return mmcs(folded, directions), float(lane.dead(int(lane.tokens_seen) // 2).float().mean())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_planted_directions_are_recovered(name: str, tmp_path: Path) -> None:
    similarity, dead = trained(name, 0.0, tmp_path)
    assert similarity > 0.95
    assert dead < 0.05


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_large_mean_kills_no_features(name: str, tmp_path: Path) -> None:
    # gamma = ||mean|| / std = 50: without centring the mean is all that features can see.
    similarity, dead = trained(name, 50.0, tmp_path)
    assert similarity > 0.95
    assert dead < 0.05

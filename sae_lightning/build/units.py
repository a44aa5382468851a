"""Which units are interpreted, and where each of them is active: features of a store, neurons read on the same text."""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_lightning.build.asking import Asked
from sae_lightning.config import InterpretConfig
from sae_lightning.core import Permutation, UserError, derive_seed
from sae_lightning.store import FeatureStore
from sae_lightning.studies.autointerp.neurons import NeuronFirings, Neurons
from sae_lightning.studies.autointerp.recording import Active, FeatureFirings
from sae_lightning.studies.autointerp.records import Unit

logger = logging.getLogger(__name__)

# Activations of the store that are counted at once.
_CHUNK = 1 << 24
# Where neither a feature nor the user says on how many tokens a neuron counts as active.
_SHARE = 0.01


@dataclass(frozen=True)
class Units:
    """Units to interpret, features first. n_tokens: of the store, on which all of them are looked at."""

    units: tuple[Unit, ...]
    n_tokens: int
    features: FeatureFirings
    neurons: NeuronFirings

    def of(self, unit: Unit) -> Active:
        """Return where a unit is active."""
        return (self.features if unit.kind == "feature" else self.neurons).of(unit)


def choose_units(config: InterpretConfig, asked: Asked) -> Units:
    """Choose features and neurons and read the neurons. Neurons that are never active (ReLU has such) are left out.

    Raises UserError: features out of range, too few that fire often enough, no text to read neurons on.
    """
    store = asked.store
    assert store is not None
    for feature in config.features or ():
        asked.check_feature(feature)
    if not config.n_neurons:
        n_tokens = min(config.tokens, store.n_tokens)
        firings = FeatureFirings(store, n_tokens)
        return Units(tuple(_features(config, store, n_tokens)), n_tokens, firings, NeuronFirings({}))
    control = Neurons(asked.corpus(config.tokens), config.neurons)
    n_tokens = control.n_tokens
    firings = FeatureFirings(store, n_tokens)
    features = _features(config, store, n_tokens)
    neurons = control.draw(config.n_neurons, config.seed)
    n_kept = max(1, int(np.count_nonzero(store.kept[:n_tokens])))
    shares = [len(firings.of(unit).tokens) / n_kept for unit in features]
    share = config.neuron_share or (float(np.median(shares)) if shares else _SHARE)
    read = control.read(neurons, share, config.progress)
    active = [unit for unit in neurons if len(read.of(unit).tokens)]
    if len(active) < len(neurons):
        logger.warning("%d of %d neurons are never active: left out", len(neurons) - len(active), len(neurons))
    return Units((*features, *active), n_tokens, firings, read)


def _features(config: InterpretConfig, store: FeatureStore, n_tokens: int) -> list[Unit]:
    if config.features is not None:
        return [Unit("feature", feature) for feature in config.features]
    often = np.flatnonzero(_counts(store, n_tokens) >= config.min_firings)
    if len(often) < config.n_features:
        raise UserError(
            f"n_features={config.n_features}: only {len(often)} features are active on min_firings="
            f"{config.min_firings} of {n_tokens:,} tokens; lower either, or raise tokens"
        )
    if not config.n_features:
        return []
    order = Permutation(len(often), derive_seed(config.seed, "autointerp", "features"))
    return [Unit("feature", int(i)) for i in np.sort(often[order[np.arange(config.n_features)]])]


def _counts(store: FeatureStore, n_tokens: int) -> NDArray[np.int64]:
    """Return on how many of the first tokens each feature is above 0."""
    counts, end = np.zeros(store.d_sae, np.int64), int(store.csr.offsets[n_tokens])
    for first in range(0, end, _CHUNK):
        last = min(end, first + _CHUNK)
        positive = np.asarray(store.csr.values[first:last]) > 0
        counts += np.bincount(np.asarray(store.csr.indices[first:last])[positive], minlength=store.d_sae)
    return counts

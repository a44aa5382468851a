"""Data with a known answer: planted sparse features (SynthSAEBench's generator) and toy models of superposition.

A model gives blocks of rows with their true features, as a pure function of its settings and a seed.
"""

from sae_lightning.activations.synthetic.model import SyntheticModel
from sae_lightning.activations.synthetic.planted import BLOCK_ROWS, PlantedModel
from sae_lightning.activations.synthetic.rebuild import planted_model
from sae_lightning.activations.synthetic.source import SyntheticRows, SyntheticSource
from sae_lightning.activations.synthetic.toy import ToySuperposition

__all__ = [
    "BLOCK_ROWS",
    "PlantedModel",
    "SyntheticModel",
    "SyntheticRows",
    "SyntheticSource",
    "ToySuperposition",
    "planted_model",
]

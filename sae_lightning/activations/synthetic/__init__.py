"""Data with a known answer: planted sparse features (SynthSAEBench's generator), of one model or two; toy models.

A model gives blocks of rows with their true features, as a pure function of its settings and a seed.
"""

from sae_lightning.activations.synthetic.model import SyntheticModel
from sae_lightning.activations.synthetic.planted import BLOCK_ROWS, PlantedModel
from sae_lightning.activations.synthetic.rebuild import planted_model
from sae_lightning.activations.synthetic.source import SyntheticRows, SyntheticSource
from sae_lightning.activations.synthetic.toy import ToySuperposition
from sae_lightning.activations.synthetic.two_models import TwoModels

__all__ = [
    "BLOCK_ROWS",
    "PlantedModel",
    "SyntheticModel",
    "SyntheticRows",
    "SyntheticSource",
    "ToySuperposition",
    "TwoModels",
    "planted_model",
]

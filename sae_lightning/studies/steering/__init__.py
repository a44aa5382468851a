"""Features pushed: written in place of what the SAE found, while the language model reads or goes on with a text."""

from sae_lightning.studies.steering.edits import FeatureEdit, add, clamp, resolve, scale, times_max
from sae_lightning.studies.steering.generate import Continuation, generate
from sae_lightning.studies.steering.sampling import Sampling
from sae_lightning.studies.steering.steered import steered
from sae_lightning.studies.steering.steering import Steering

__all__ = [
    "Continuation",
    "FeatureEdit",
    "Sampling",
    "Steering",
    "add",
    "clamp",
    "generate",
    "resolve",
    "scale",
    "steered",
    "times_max",
]

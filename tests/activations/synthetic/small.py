"""Small synthetic models that tests share."""

from typing import Any

from sae_lightning.activations.synthetic import SyntheticModel
from sae_lightning.activations.synthetic.settings import Correlation, FiringProbability, Hierarchy

HIERARCHY = Hierarchy(
    total_root_nodes=4,
    branching_factor=3,
    max_depth=2,
    mutually_exclusive_portion=0.5,
    compensate_probabilities=True,
)
CORRELATION = Correlation(rank=4, correlation_scale=0.3)


def small(**settings: Any) -> SyntheticModel:
    """Return a model of 64 features in 16 dimensions."""
    given: dict[str, Any] = {
        "num_features": 64,
        "hidden_dim": 16,
        "firing_probability": FiringProbability(type="linear", max_prob=0.3, min_prob=0.02),
        "std_firing_magnitudes": 0.2,
        "mean_firing_magnitudes": 1.0,
        "bias": 2.0,
    }
    return SyntheticModel(**(given | settings))

"""Runs inside the peers' environment: ``saelens_synthetic.py IN.npz OUT.npz`` scores an SAE and draws synthetic data.

IN: x, truth (dense), features, y_hat, decoder, directions, and ``settings`` (JSON) of a synthetic model. OUT: the
scores of sae-lens, and the firing probabilities and rates of its own model with these settings.
"""

import json
import sys

import numpy as np
import torch
from sae_lens.synthetic.evals import (
    ExplainedVarianceCalculator,
    compute_classification_metrics,
    feature_uniqueness,
    mean_correlation_coefficient,
)
from sae_lens.synthetic.firing_magnitudes import LinearMagnitudeConfig
from sae_lens.synthetic.firing_probabilities import ZipfianFiringProbabilityConfig
from sae_lens.synthetic.hierarchy import HierarchyConfig
from sae_lens.synthetic.synthetic_model import LowRankCorrelationConfig, SyntheticModel, SyntheticModelConfig

torch.set_num_threads(1)
given = np.load(sys.argv[1])
x, truth, features, y_hat, decoder, directions = (
    torch.from_numpy(given[name]) for name in ("x", "truth", "features", "y_hat", "decoder", "directions")
)
variance = ExplainedVarianceCalculator()
variance.add_batch(y_hat, x)
found = compute_classification_metrics(features, truth, decoder, directions)
scores = {
    "mcc": mean_correlation_coefficient(decoder, directions),
    "uniqueness": feature_uniqueness(decoder, directions),
    "f1": found.f1_score,
    "precision": found.precision,
    "recall": found.recall,
    "explained_variance": variance.compute(),
}
s = json.loads(str(given["settings"]))
torch.manual_seed(0)
model = SyntheticModel(
    SyntheticModelConfig(
        num_features=s["num_features"],
        hidden_dim=s["hidden_dim"],
        firing_probability=ZipfianFiringProbabilityConfig(**s["firing_probability"]),
        hierarchy=HierarchyConfig(**s["hierarchy"]),
        correlation=LowRankCorrelationConfig(**s["correlation"]),
        std_firing_magnitudes=s["std_firing_magnitudes"],
        mean_firing_magnitudes=LinearMagnitudeConfig(**s["mean_firing_magnitudes"]),
        seed=0,
    )
)
fired = sum((model.sample_with_features(4096)[1] > 0).sum(0) for _ in range(s["blocks"]))
np.savez(
    sys.argv[2],
    scores=json.dumps(scores),
    probabilities=model.activation_generator.firing_probabilities.numpy(),
    rates=(fired / (4096 * s["blocks"])).numpy(),
)

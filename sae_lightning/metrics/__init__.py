"""Running metrics, one file each, one formula each: float64 sums that do not depend on how tokens are batched.

Each has ``update``, ``compute``, ``merge`` and ``state``, so parts seen by different processes add up, and ``pool`` and
``values``, from which ``bootstrap`` makes intervals over windows.
"""

from sae_lightning.metrics.alignment import Alignment
from sae_lightning.metrics.bootstrap import FEWEST, POOLED, bootstrap_weights, interval, linearised
from sae_lightning.metrics.density import Density
from sae_lightning.metrics.downstream import DownstreamLoss
from sae_lightning.metrics.explained import PerTokenEV, ResidualVarianceEV
from sae_lightning.metrics.fvu import FVU
from sae_lightning.metrics.matching import FiringAgreement, Matching, match
from sae_lightning.metrics.moments import Moments
from sae_lightning.metrics.running import RunningMetric, SumMetric, ratio, weighted
from sae_lightning.metrics.sparsity import Sparsity

__all__ = [
    "FEWEST",
    "FVU",
    "POOLED",
    "Alignment",
    "Density",
    "DownstreamLoss",
    "FiringAgreement",
    "Matching",
    "Moments",
    "PerTokenEV",
    "ResidualVarianceEV",
    "RunningMetric",
    "Sparsity",
    "SumMetric",
    "bootstrap_weights",
    "interval",
    "linearised",
    "match",
    "ratio",
    "weighted",
]

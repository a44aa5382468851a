"""Running metrics, one file each, one formula each: float64 sums that do not depend on how tokens are batched.

Each has ``update``, ``compute``, ``merge`` and ``state``, so parts seen by different processes add up.
"""

from sae_lightning.metrics.alignment import Alignment
from sae_lightning.metrics.density import Density
from sae_lightning.metrics.downstream import DownstreamLoss
from sae_lightning.metrics.fvu import FVU
from sae_lightning.metrics.running import RunningMetric, SumMetric
from sae_lightning.metrics.sparsity import Sparsity

__all__ = ["FVU", "Alignment", "Density", "DownstreamLoss", "RunningMetric", "Sparsity", "SumMetric"]

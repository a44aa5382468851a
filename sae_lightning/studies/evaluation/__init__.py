"""Held-out quality of an SAE: reconstruction, sparsity, and what the language model loses with it in place.

One question a file; ``heldout_metrics`` asks them all in as few passes as possible.
"""

from sae_lightning.studies.evaluation.ablation import AblationStudy
from sae_lightning.studies.evaluation.ablation_sparsity import AblationSparsityStudy
from sae_lightning.studies.evaluation.compare import CompareStudy
from sae_lightning.studies.evaluation.consistency import ConsistencyStudy
from sae_lightning.studies.evaluation.downstream import DownstreamStudy
from sae_lightning.studies.evaluation.groundtruth import GroundTruthStudy
from sae_lightning.studies.evaluation.heldout import HELDOUT_KEYS, heldout_metrics
from sae_lightning.studies.evaluation.latent_scaling import LatentScalingStudy
from sae_lightning.studies.evaluation.probe import ProbeStudy
from sae_lightning.studies.evaluation.reconstruction import ReconstructionStudy
from sae_lightning.studies.evaluation.sites import SitesStudy
from sae_lightning.studies.evaluation.sparsity import SparsityStudy

__all__ = [
    "HELDOUT_KEYS",
    "AblationSparsityStudy",
    "AblationStudy",
    "CompareStudy",
    "ConsistencyStudy",
    "DownstreamStudy",
    "GroundTruthStudy",
    "LatentScalingStudy",
    "ProbeStudy",
    "ReconstructionStudy",
    "SitesStudy",
    "SparsityStudy",
    "heldout_metrics",
]

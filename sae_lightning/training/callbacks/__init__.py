"""Callbacks: what happens around a step, one policy a file. State that must survive a restart lives in the lane."""

from sae_lightning.training.callbacks.base import find
from sae_lightning.training.callbacks.checkpoint import Checkpoints
from sae_lightning.training.callbacks.collapse_alarm import CollapseAlarm
from sae_lightning.training.callbacks.config_log import ConfigLog
from sae_lightning.training.callbacks.dead_features import DeadFeatures
from sae_lightning.training.callbacks.decoder_norm import DecoderNorm
from sae_lightning.training.callbacks.density import DensityHistogram
from sae_lightning.training.callbacks.evaluation import Evaluation
from sae_lightning.training.callbacks.export import Export
from sae_lightning.training.callbacks.gradient_projection import GradientProjection
from sae_lightning.training.callbacks.metrics_log import MetricsLog
from sae_lightning.training.callbacks.nan_guard import NaNGuard, NonFiniteLoss
from sae_lightning.training.callbacks.progress import LiveProgress
from sae_lightning.training.callbacks.progress_file import ProgressFile
from sae_lightning.training.callbacks.pruning import Pruned, Pruning
from sae_lightning.training.callbacks.scaling_log import ScalingLog, training_flops
from sae_lightning.training.callbacks.stop_signal import StopSignal
from sae_lightning.training.callbacks.weight_norms import WeightNorms

__all__ = [
    "Checkpoints",
    "CollapseAlarm",
    "ConfigLog",
    "DeadFeatures",
    "DecoderNorm",
    "DensityHistogram",
    "Evaluation",
    "Export",
    "GradientProjection",
    "LiveProgress",
    "MetricsLog",
    "NaNGuard",
    "NonFiniteLoss",
    "ProgressFile",
    "Pruned",
    "Pruning",
    "ScalingLog",
    "StopSignal",
    "WeightNorms",
    "find",
    "training_flops",
]

"""Activations of a frozen language model as shuffled, masked, resumable batches. Masks and normalisation are fixed
before training and saved with the SAE; the same seed gives the same batches, also after a restart."""

from sae_lightning.activations.arrays import ActivationFile
from sae_lightning.activations.buffer import ShuffleBuffer, Snapshot
from sae_lightning.activations.calibrate import ActivationStats, Calibration, calibrate, describe
from sae_lightning.activations.file import FileSource
from sae_lightning.activations.harvest import Harvester
from sae_lightning.activations.mask import MaskPolicy
from sae_lightning.activations.normalise import Normaliser, gamma
from sae_lightning.activations.source import ActivationSource, StopRequested
from sae_lightning.activations.stream import StreamSource
from sae_lightning.activations.windowed import WindowSource

__all__ = [
    "ActivationFile",
    "ActivationSource",
    "ActivationStats",
    "Calibration",
    "FileSource",
    "Harvester",
    "MaskPolicy",
    "Normaliser",
    "ShuffleBuffer",
    "Snapshot",
    "StopRequested",
    "StreamSource",
    "WindowSource",
    "calibrate",
    "describe",
    "gamma",
]

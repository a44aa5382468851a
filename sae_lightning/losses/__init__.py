"""Loss terms, one file each, and the objective that adds them up with their own coefficient schedules.

Every term is a mean over tokens of a per-token sum, so duplicating a batch changes nothing.
"""

from sae_lightning.losses.aux_k import AuxK
from sae_lightning.losses.block_mse import BlockMSE
from sae_lightning.losses.context import StepContext
from sae_lightning.losses.gated import GatedAux, GatedL1
from sae_lightning.losses.l0 import L0
from sae_lightning.losses.l1 import L1
from sae_lightning.losses.logit_kl import LogitKL
from sae_lightning.losses.matryoshka import Matryoshka
from sae_lightning.losses.multi_topk import MultiTopK
from sae_lightning.losses.objective import Objective
from sae_lightning.losses.pre_act import PreAct
from sae_lightning.losses.reconstruction import Reconstruction
from sae_lightning.losses.tanh import Tanh
from sae_lightning.losses.term import LossTerm
from sae_lightning.losses.through import ModelRun, Through

__all__ = [
    "L0",
    "L1",
    "AuxK",
    "BlockMSE",
    "GatedAux",
    "GatedL1",
    "LogitKL",
    "LossTerm",
    "Matryoshka",
    "ModelRun",
    "MultiTopK",
    "Objective",
    "PreAct",
    "Reconstruction",
    "StepContext",
    "Tanh",
    "Through",
]

"""From a validated config to objects: the only place that looks up what a ``_target_`` names."""

from sae_lightning.build.data import Data, build_data, build_lm, build_store
from sae_lightning.build.instantiate import make
from sae_lightning.build.lanes import build_lane, build_objective, build_sae, optim_settings
from sae_lightning.build.run import Run, build_run, new_run_dir, run_name

__all__ = [
    "Data",
    "Run",
    "build_data",
    "build_lane",
    "build_lm",
    "build_objective",
    "build_run",
    "build_sae",
    "build_store",
    "make",
    "new_run_dir",
    "optim_settings",
    "run_name",
]

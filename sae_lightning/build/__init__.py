"""From a validated config to objects: the only place that looks up what a ``_target_`` names."""

from sae_lightning.build.again import added_to, find_checkpoint, save_overrides, saved_lanes
from sae_lightning.build.bank import expand_grid, lane_configs
from sae_lightning.build.data import Data, build_data
from sae_lightning.build.instantiate import make
from sae_lightning.build.lanes import build_lane, build_objective, build_sae, optim_settings
from sae_lightning.build.names import new_run_dir, run_name
from sae_lightning.build.run import Run, build_run
from sae_lightning.build.text import build_cache

__all__ = [
    "Data",
    "Run",
    "added_to",
    "build_cache",
    "build_data",
    "build_lane",
    "build_objective",
    "build_run",
    "build_sae",
    "expand_grid",
    "find_checkpoint",
    "lane_configs",
    "make",
    "new_run_dir",
    "optim_settings",
    "run_name",
    "save_overrides",
    "saved_lanes",
]

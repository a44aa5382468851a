"""From a validated config to objects: the only place that looks up what a ``_target_`` names.

Names are loaded when they are first used: who asks about a trained SAE does not wait for Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_lightning.build.again import added_to, find_checkpoint, save_overrides, saved_lanes
    from sae_lightning.build.bank import expand_grid, lane_configs
    from sae_lightning.build.data import Data, build_data
    from sae_lightning.build.instantiate import make
    from sae_lightning.build.lanes import build_lane, build_objective, build_sae, optim_settings
    from sae_lightning.build.names import new_run_dir, run_name
    from sae_lightning.build.run import Run, build_run
    from sae_lightning.build.text import build_cache

_HOME = {
    "added_to": "again",
    "find_checkpoint": "again",
    "save_overrides": "again",
    "saved_lanes": "again",
    "expand_grid": "bank",
    "lane_configs": "bank",
    "Data": "data",
    "build_data": "data",
    "make": "instantiate",
    "build_lane": "lanes",
    "build_objective": "lanes",
    "build_sae": "lanes",
    "optim_settings": "lanes",
    "new_run_dir": "names",
    "run_name": "names",
    "Run": "run",
    "build_run": "run",
    "build_cache": "text",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


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

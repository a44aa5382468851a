"""sae_lightning: train and read sparse autoencoders on language models.

From Python: ``load_sae(path)``, ``FrozenLM.load(name)``, ``FeatureStore.open(path)``,
``with steered(lm, sae, {7: clamp(8.0)})``. From the shell:
``python -m sae_lightning.train --help``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_lightning.lm import FrozenLM
    from sae_lightning.sae import load_sae
    from sae_lightning.store import FeatureStore
    from sae_lightning.studies.steering import clamp, steered

_HOME = {
    "FeatureStore": "store",
    "FrozenLM": "lm",
    "clamp": "studies.steering",
    "load_sae": "sae",
    "steered": "studies.steering",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = ["FeatureStore", "FrozenLM", "clamp", "load_sae", "steered"]

"""What an export says of its origin: enough to evaluate it elsewhere, and nothing of the machine it was made on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lightning.build.instantiate import make
from sae_lightning.config import DataConfig, LMConfig, RunConfig
from sae_lightning.lm import FrozenLM
from sae_lightning.tokens import TokenStore

#: Settings of data that decide which text is read and how it is cut.
_TEXT = ("kind", "source", "max_tokens", "context_length", "packing", "prepend_bos", "heldout_fraction")
_MASK = ("mask_first_position", "mask_norm_multiple")


def lm_identity(lm: FrozenLM) -> dict[str, Any]:
    """Return the language model's identity, of a local folder its last name alone; ``tuned``: of a second one."""
    return _public(lm.identity())


def _public(identity: Mapping[str, Any]) -> dict[str, Any]:
    out = {**identity, "name": public_name(str(identity["name"]))}
    if identity.get("tuned"):
        out["tuned"] = _public(identity["tuned"])
    return out


def public_name(name: str) -> str:
    """Return a name as others may see it: of a path that exists here, its last part."""
    return Path(name).name if Path(name).expanduser().exists() else name


def text_identity(data: DataConfig, store: TokenStore) -> str:
    """Return what names the text before it is cut: the same for every budget."""
    if data.source is None:
        return store.identity()
    return make(data.source, "data.source").identity()


def recipe(config: RunConfig) -> dict[str, Any]:
    """Return the settings of language model and data that work on any machine; None where they name a local path."""
    lm, tuned = (_portable(one) for one in (config.lm, config.tuned))
    data = None
    if config.data.kind != "activations" and not _local(config.data.source or {"path": config.data.path}):
        data = config.data.model_dump(mode="json", include={*_TEXT, *_MASK})
    second = {"tuned": tuned} if config.sites.diff else {}
    return {"lm": lm, **second, "data": data}


def _portable(lm: LMConfig | None) -> dict[str, Any] | None:
    if lm is None or Path(lm.name).expanduser().exists():
        return None
    return lm.model_dump(mode="json", exclude={"device", "device_map"})


def _local(node: Mapping[str, Any]) -> bool:
    return any(isinstance(v, str) and (k == "path" or Path(v).expanduser().exists()) for k, v in node.items())

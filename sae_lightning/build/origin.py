"""Where an SAE comes from: its run's config or what its files say, and what of it the user overrides."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sae_lightning import command
from sae_lightning.config import (
    DataConfig,
    LMConfig,
    ReadsSAE,
    RunConfig,
    TunedConfig,
    load_config,
    validate,
)
from sae_lightning.core import UserError
from sae_lightning.lm.sites import member_of
from sae_lightning.sae import SparseAutoencoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What an SAE is measured on. run: of its own run folder, where it lies in one.

    tuned: the second language model, of an SAE of two.
    own_data: whether the data are those the SAE says it was trained on (and not the user's choice, or a default).
    """

    run: RunConfig | None
    lm: LMConfig | None
    data: DataConfig
    own_data: bool
    read: tuple[str, ...] | None
    write: tuple[str, ...] | None
    tuned: LMConfig | None = None


def run_of(path: Path) -> RunConfig | None:
    """Return the config of the run that an SAE's path is, or lies in."""
    for folder in (path, path.parent):
        if (folder / "config.yaml").is_file():
            return load_config(folder)
    return None


def origin_of(config: ReadsSAE, path: str, sae: SparseAutoencoder) -> Origin:
    """Return what an SAE is measured on: the user's settings first, then its run's, then what its files say.

    Raises UserError where neither says which language model, or at which sites.
    """
    said, run = sae.metadata, run_of(Path(path).expanduser())
    recipe = said.get("recipe") or {}
    data, own = config.data, config.data is None
    if data is None:
        data = run.data if run is not None else _saved(recipe.get("data"), DataConfig)
    if data is None and (said.get("data") or {}).get("synthetic"):
        data = DataConfig(kind="synthetic", synthetic=said["data"]["synthetic"])
    if data is None:
        if (said.get("data") or {}).get("activations"):
            raise UserError(
                f"sae={path}: was trained on a file of activations that lies elsewhere; give data=activations "
                "data.path=..., or lm=... sites=... data=..."
            )
        data, own = _default_data(said), False
        logger.info("data: the embedded news; data=text data.path=... takes other text")
    if data.kind in ("activations", "synthetic"):
        return Origin(run, None, data, own, None, None)
    sites = said.get("sites") or {}
    if config.sites.read:
        sites = {"read": config.sites.read, "write": config.sites.write or config.sites.read}
    elif config.sites.write:
        sites = {**sites, "write": config.sites.write}
    read, write = (tuple(sites.get(key) or ()) for key in ("read", "write"))
    if not read:
        raise UserError(f"sae={path}: does not say at which site it reads; give sites.read=[blocks.9.hook_resid_post]")
    lm = config.lm or (run.lm if run is not None else None) or _saved(recipe.get("lm"), LMConfig)
    if lm is None and (name := (said.get("lm") or {}).get("name")):
        lm = LMConfig(name=name, revision=(said["lm"] or {}).get("revision"))
    if lm is None:
        raise UserError(f"sae={path}: does not say which language model it reads; give lm=...")
    return Origin(run, lm, data, own, read, write, _second(config, path, said, run, lm, (*read, *write)))


def _second(
    config: ReadsSAE,
    path: str,
    said: dict[str, Any],
    run: RunConfig | None,
    lm: LMConfig,
    sites: tuple[str, ...],
) -> LMConfig | None:
    """Return the second language model of an SAE of two; None for an SAE of one. Raises UserError if unknown."""
    own = config.sites.tuned
    if all(member_of(site)[0] is None for site in sites):
        if own != TunedConfig():
            raise UserError(f"sites.tuned: sae={path} reads one language model; leave it out")
        return None
    if own != TunedConfig():
        return own.beside(lm)
    tuned = (run.tuned if run is not None else None) or _saved((said.get("recipe") or {}).get("tuned"), LMConfig)
    if tuned is None and (identity := (said.get("lm") or {}).get("tuned")):
        tuned = lm.model_copy(update={"name": identity["name"], "revision": identity.get("revision")})
    if tuned is None:
        raise UserError(f"sae={path}: reads two language models and does not say the second; give sites.tuned.name=...")
    return tuned


def _saved(value: Any, model: type[DataConfig] | type[LMConfig]) -> Any:
    return None if value is None else validate(value, model)


def _default_data(said: dict[str, Any]) -> DataConfig:
    """Return the embedded news, in windows as long as those the SAE was trained on where it says so."""
    values = OmegaConf.to_container(OmegaConf.load(command.conf_dir() / "data" / "news.yaml"))
    assert isinstance(values, dict)
    length = (said.get("data") or {}).get("context_length")
    if isinstance(length, int) and 2 <= length <= 1024:
        values["context_length"] = length
    return validate({str(key): value for key, value in values.items()}, DataConfig)

"""From a feature store to what studies ask about: its SAE, its language model, and the windows it was made of."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lightning.activations import Harvester
from sae_lightning.build.text import build_store, split_windows
from sae_lightning.config import DataConfig, validate
from sae_lightning.core import UserError
from sae_lightning.store import FeatureStore, Reader, open_reader
from sae_lightning.studies import Subject

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """A store opened for studies. run_dir: of the run that trained its SAE, where that is still there."""

    subject: Subject
    store: FeatureStore
    sae_path: Path
    run_dir: Path | None


def open_stored(
    path: str, sae: str | None = None, *, verify: bool = True, show: bool = True, device: str | None = None
) -> Stored:
    """Open a store and load its SAE. sae: where that lies now. verify: compare its arrays with their checksums.

    Raises UserError: no store, a damaged one, an SAE that is gone or is another one.
    """
    store = FeatureStore.open(path)
    if verify:
        store.verify(show)
    reader = open_reader(store.facts, sae, path, device)
    store.reader = reader
    harvester = _harvester(store, reader)
    windows = range(int(store.facts["data"]["windows"])) if harvester is not None else ()
    subject = Subject(reader.sae, lm=reader.lm, harvester=harvester, windows=windows, store=store)
    place = Path(sae or store.facts["sae"]["path"]).expanduser()
    run_dir = next((folder for folder in (place, place.parent) if (folder / "config.yaml").is_file()), None)
    return Stored(subject, store, place, run_dir)


def _harvester(store: FeatureStore, reader: Reader) -> Harvester | None:
    """Return what reads the store's windows anew; None where the text is gone or has changed since."""
    settings: dict[str, Any] = store.facts["settings"]
    data = validate(settings["data"], DataConfig)
    try:
        tokens = build_store(data, reader.lm, int(settings["enough"]))
        windows = split_windows(data, reader.lm, tokens, store.facts["data"]["split"])
    except UserError as error:
        logger.warning("the text of the store can't be read again (%s); studies that need it are left out", error)
        return None
    if windows.identity() != store.facts["data"]["identity"]:
        logger.warning("the text of the store has changed since; studies that read it again are left out")
        return None
    return Harvester(reader.lm, reader.sites, windows, reader.mask, data.micro_batch)

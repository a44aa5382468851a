"""From an SAE, or a feature store of it, to what questions are asked of: any text read, and where features fire."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sae_lightning.activations import Harvester
from sae_lightning.build.corpus import mask_of, open_corpus
from sae_lightning.build.device import pick_device
from sae_lightning.build.names import sae_name
from sae_lightning.build.origin import origin_of
from sae_lightning.build.stored import Stored, open_stored
from sae_lightning.build.text import split_windows
from sae_lightning.config import AsksSAE
from sae_lightning.core import UserError
from sae_lightning.sae import formats
from sae_lightning.store import FeatureStore, Reader, sae_sha256
from sae_lightning.studies import Subject

logger = logging.getLogger(__name__)

# Tokens that a mask is fitted on where the SAE brings none.
_MASK_TOKENS = 16384


@dataclass(frozen=True)
class Asked:
    """An SAE opened for questions.

    name: of its folder. sae_sha256: what tells it from every other. reader: reads any text as the SAE's data were.
    store: where its features fire, if one was given.
    corpus: gives a subject of the first windows that hold so many tokens: the store's, or the SAE's own text.
    lm: identity of the language model(s).
    """

    name: str
    sae_path: Path
    sae_sha256: str
    reader: Reader
    store: FeatureStore | None
    lm: dict[str, Any]
    corpus: Callable[[int], Subject]

    def check_feature(self, feature: int) -> int:
        """Return a feature's number. Raises UserError where the SAE has no such feature."""
        last = self.reader.sae.d_sae - 1
        if isinstance(feature, bool) or not isinstance(feature, int) or not 0 <= feature <= last:
            raise UserError(f"feature {feature}: this SAE has features 0 to {last}")
        return feature


def open_asked(config: AsksSAE) -> Asked:
    """Open the SAE, its language model and mask, and the store where one is given.

    Raises UserError: no SAE, no store, one of another SAE, an SAE that was trained on another language model.
    """
    device = pick_device(config.device)
    if config.store is not None:
        stored = open_stored(config.store, config.sae, verify=config.verify, show=config.progress, device=device)
        return _of_store(stored)
    assert config.sae is not None
    return _of_sae(config, config.sae, device)


def _of_store(stored: Stored) -> Asked:
    facts, subject, store = stored.store.facts, stored.subject, stored.store

    def corpus(tokens: int) -> Subject:
        if subject.harvester is None:
            raise UserError(f"store={store.path}: its text can't be read again; see the warning above")
        n_windows = min(len(subject.windows), math.ceil(tokens / subject.window_tokens))
        return Subject(subject.sae, subject.lm, subject.harvester, subject.windows[:n_windows], store=store)

    said = facts["sae"]
    lm = {key: value for key, value in facts["lm"].items() if key != "load"}
    return Asked(said["name"], stored.sae_path, said["sha256"], store.reader, store, lm, corpus)


def _of_sae(config: AsksSAE, path: str, device: str) -> Asked:
    sae = formats.read(path).to(torch.device(device)).eval()
    origin = origin_of(config, path, sae)
    if origin.data.kind in ("activations", "synthetic"):
        raise UserError(
            f"sae={path}: was trained on {origin.data.kind}, which have no text to ask about; give lm=... "
            "sites.read=[...] data=..."
        )
    opened = open_corpus(config, sae, origin, path, device, _MASK_TOKENS)
    windows = split_windows(origin.data, opened.lm, opened.tokens, "all")
    mask, mask_from = mask_of(sae, opened, origin, windows, _MASK_TOKENS, 0)
    if mask_from != "the SAE":
        logger.info("mask: the SAE brings none; first positions, special tokens and outlier norms are left out")
    reader = Reader(
        opened.lm,
        sae,
        opened.sites,
        mask,
        origin.data.context_length,
        origin.data.micro_batch,
        origin.data.prepend_bos,
    )

    def corpus(tokens: int) -> Subject:
        more = open_corpus(config, sae, origin, path, device, tokens)
        windows = split_windows(origin.data, more.lm, more.tokens, "all")
        n_windows = min(len(windows), math.ceil(tokens / windows.context_length))
        harvester = Harvester(reader.lm, reader.sites, windows, mask, reader.micro_batch)
        return Subject(sae, reader.lm, harvester, range(n_windows))

    place = Path(path).expanduser().resolve()
    return Asked(sae_name(path), place, sae_sha256(sae), reader, None, opened.identity, corpus)

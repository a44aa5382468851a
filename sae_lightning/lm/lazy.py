"""A language model that is loaded when something has to go through it, and not before."""

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sae_lightning.core import UserError
from sae_lightning.lm.card import LMCard, card_path, read_card, write_card
from sae_lightning.lm.devices import DeviceMap, check_device, check_device_map
from sae_lightning.lm.embedded import smollm2_folder
from sae_lightning.lm.frozen_lm import DType, FrozenLM
from sae_lightning.lm.hub import model_folder, read_tokenizer
from sae_lightning.lm.outline import Names
from sae_lightning.lm.reader import Reader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class LazyLM(FrozenLM):
    """A ``FrozenLM`` that knows its identity, sizes and sites from a card (``lm.card``) and loads itself at first use.

    The first load of a model writes the card. Runs of a sweep that read kept activations then neither import
    transformers nor read a weight. ``loaded`` tells whether the weights are in memory.
    """

    def __init__(
        self,
        name: str = "smollm2",
        *,
        device: str = "cpu",
        dtype: DType = "bfloat16",
        revision: str | None = None,
        seed: int = 0,
        device_map: DeviceMap | None = None,
        **tiny: int,
    ) -> None:
        check_device(device)
        if device_map is not None:
            device_map = check_device_map(device_map)
        self._arguments: dict[str, Any] = {
            "device": device,
            "dtype": dtype,
            "revision": revision,
            "seed": seed,
            "device_map": device_map,
            **tiny,
        }
        self._model: FrozenLM | None = None
        self._loading = threading.Lock()
        self.name = name
        self._source: Path | None = _folder(name, revision)
        request = {
            "name": name,
            "dtype": dtype,
            "revision": revision,
            **({"seed": seed, **tiny} if name == "tiny" else {}),
        }
        self._card_file = card_path(request, self._source)
        card = None if tiny and name != "tiny" else read_card(self._card_file)
        self._tokenizer: PreTrainedTokenizerBase | None = None
        if card is None:
            card = self._make_card()
        self._card = card
        self.revision = card.revision
        # Where a spread model takes its tokens in is known when it is loaded.
        self.device = torch.device(device) if device_map is None else self._load().device
        self.dtype = getattr(torch, dtype)
        self.d_model, self.n_layers, self.n_ctx = card.d_model, card.n_layers, card.n_ctx
        self.vocab_size = card.vocab_size
        self.separator_id, self.bos_id, self.special_ids = card.separator_id, card.bos_id, card.special_ids
        self.windows_read = 0
        self._one_at_a_time = threading.RLock()
        self._widths = dict(card.widths)

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._model is not None

    @property
    def bridge(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._load().bridge

    @property
    def model(self) -> nn.Module:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._load().model

    @property
    def _names(self) -> Names:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._load()._names

    @property
    def _reader(self) -> Reader:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._load()._reader

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":  # pyright: ignore[reportIncompatibleVariableOverride]
        if self._model is not None:
            return self._model.tokenizer
        if self._source is None:
            return self._load().tokenizer
        if self._tokenizer is None:
            self._tokenizer = read_tokenizer(self._source, self.name)
        return self._tokenizer

    def identity(self) -> dict[str, Any]:
        card = self._card
        return {
            "name": card.name,
            "revision": card.revision,
            "sha256": card.sha256,
            "tokenizer_hash": card.tokenizer_hash,
        }

    def n_bytes(self) -> int:
        return self._card.n_bytes

    def site_width(self, site: str) -> int:
        known = site in self._widths
        width = super().site_width(site)
        if not known:
            self._card = replace(self._card, widths=dict(self._widths))
            write_card(self._card_file, self._card)
        return width

    def _load(self) -> FrozenLM:
        with self._loading:
            if self._model is None:
                logger.debug("loading the language model %s", self.name)
                self._model = FrozenLM.load(self.name, **self._arguments)
            return self._model

    def _make_card(self) -> LMCard:
        lm = self._load()
        identity = lm.identity()
        sha256, tokenizer_hash = identity["sha256"], identity["tokenizer_hash"]
        assert sha256 is not None
        assert tokenizer_hash is not None
        card = LMCard(
            name=lm.name,
            revision=lm.revision,
            sha256=sha256,
            tokenizer_hash=tokenizer_hash,
            d_model=lm.d_model,
            n_layers=lm.n_layers,
            n_ctx=lm.n_ctx,
            vocab_size=lm.vocab_size,
            separator_id=lm.separator_id,
            bos_id=lm.bos_id,
            special_ids=lm.special_ids,
            n_bytes=lm.n_bytes(),
        )
        write_card(self._card_file, card)
        return card


def _folder(name: str, revision: str | None) -> Path | None:
    if name == "tiny":
        return None
    if not name:
        raise UserError("lm.name='': must name a model; use lm=smollm2 for the embedded one")
    return smollm2_folder() if name == "smollm2" else model_folder(name, revision)[0]

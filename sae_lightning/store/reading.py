"""Any text read as the corpus of a store was: the language model and the SAE it was made with."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_lightning.activations import MaskPolicy
from sae_lightning.activations.harvest import read_windows
from sae_lightning.core import Features, Sites, TokenBatch, UserError
from sae_lightning.lm import FrozenLM, LazyLM, PairedLM
from sae_lightning.lm.weights import tensors_sha256
from sae_lightning.sae import SparseAutoencoder, formats
from sae_lightning.store.texts import Cutter
from sae_lightning.tokens import sound


@dataclass(frozen=True)
class TextActivations:
    """A text, token by token: pieces (exact source characters), token_ids [n], kept [n] (what the mask leaves in).

    features [m]; values [n, m] float32, 0 where a feature is not active. Masked tokens have 0 everywhere.
    """

    pieces: list[str]
    token_ids: NDArray[np.int64]
    kept: NDArray[np.bool_]
    features: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Reader:
    """Reads windows and texts: language model, sites, mask, SAE.

    context_length: tokens of one window, as in the corpus. micro_batch: windows that go through at once. prepend_bos:
    whether the corpus' windows begin with a BOS.
    """

    lm: FrozenLM
    sae: SparseAutoencoder
    sites: Sites
    mask: MaskPolicy | None
    context_length: int
    micro_batch: int
    prepend_bos: bool = False

    def encode(self, x: torch.Tensor) -> Features:
        """Return the features of raw rows [n, d_in], as they are at inference."""
        self.sae.eval()
        with torch.no_grad():
            return self.sae.encode(x.to(self.sae.W_dec.device, torch.float32)).sparse()

    @property
    def start(self) -> int | None:
        """The token that every window begins with, so that none of the text stands at its first position.

        A BOS where the corpus' windows begin with one, else the language model's separator (BOS where it has none).
        """
        either = (self.lm.bos_id, self.lm.separator_id) if self.prepend_bos else (self.lm.separator_id, self.lm.bos_id)
        return next((i for i in either if i is not None), None)

    def windows(self, token_ids: NDArray[np.int64], room: int | None = None) -> TokenBatch:
        """Return one text's ids in windows of ``room`` tokens and a start; None: as long as the corpus'.

        ``token_index`` counts the text's tokens, -1 for the start and for padding.
        """
        start = self.start
        room = self.context_length - (start is not None) if room is None else room
        n_windows = max(1, -(-len(token_ids) // room))
        flat = np.full(n_windows * room, self.lm.separator_id or 0, np.int64)
        flat[: len(token_ids)] = token_ids
        index = np.full(n_windows * room, -1, np.int64)
        index[: len(token_ids)] = np.arange(len(token_ids))
        tokens, numbers = flat.reshape(n_windows, room), index.reshape(n_windows, room)
        if start is not None:
            tokens = np.concatenate([np.full((n_windows, 1), start), tokens], axis=1)
            numbers = np.concatenate([np.full((n_windows, 1), -1), numbers], axis=1)
        return TokenBatch(
            tokens=torch.from_numpy(tokens),
            mask=torch.from_numpy((numbers >= 0) | (np.arange(tokens.shape[1]) == 0)[None] & (start is not None)),
            token_index=torch.from_numpy(numbers),
            text_index=torch.zeros(n_windows, dtype=torch.int64),
            start=torch.zeros(n_windows, dtype=torch.int64),
        )

    def keep(self, batch: TokenBatch, x: torch.Tensor) -> torch.Tensor:
        """Return which tokens of windows the SAE is asked about [b, p], from what it reads there [b, p, d_in]."""
        real = (batch.token_index >= 0).to(x.device)
        return real if self.mask is None else self.mask.keep(batch, x)

    def rows(self, token_ids: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Features]:
        """Return (which tokens count, the features of those) of one text's ids, read in ``windows`` of them."""
        batch = self.windows(token_ids)
        n_windows = len(batch.tokens)
        kept, parts = [], []
        size = min(self.micro_batch, n_windows)  # a line of text need not be read as thirty-two
        for first in range(0, n_windows, size):
            part = TokenBatch(**{name: value[first : first + size] for name, value in vars(batch).items()})
            read = read_windows(self.lm, part.tokens, self.sites.read, size)
            x = torch.cat([read[site] for site in self.sites.read], dim=-1)
            keep = self.keep(part, x)
            kept.append(keep[(part.token_index >= 0).to(x.device)].cpu().numpy())
            parts.append(self.encode(x[keep]))
        return np.concatenate(kept), Features.join(parts)

    @cached_property
    def _cutter(self) -> Cutter:
        # Copies the tokenizer, which takes longer than to cut a text.
        return Cutter(self.lm.tokenizer)

    def cut(self, text: str) -> tuple[list[str], NDArray[np.int64]]:
        """Return (exact source characters, id) of each token of a text. Raises UserError for one without tokens."""
        cutter, text = self._cutter, sound(text)
        found = cutter.ids_and_ends(text)
        if found is None:
            ids = np.asarray(self.lm.tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)
            text, ends = cutter.decoded(ids)
        else:
            ids, ends = found
        if not len(ids):
            raise UserError(f"text {text!r}: has no tokens; give a text with words in it")
        data, edges = text.encode("utf-8"), [0, *ends.tolist()]
        return [data[a:b].decode("utf-8") for a, b in pairwise(edges)], ids

    def over(self, text: str, features: list[int] | None = None) -> TextActivations:
        """Return the activations of these features on a text; None: of every feature that is active on it.

        Raises UserError for a text without tokens.
        """
        pieces, ids = self.cut(text)
        kept, active = self.rows(ids)
        rows, numbers, values = (value.cpu().numpy() for value in active.triples())
        chosen = np.unique(numbers) if features is None else np.asarray(features, np.int64)
        dense = np.zeros((len(ids), len(chosen)), np.float32)
        at = np.flatnonzero(kept)
        for column, feature in enumerate(chosen):
            mine = numbers == feature
            dense[at[rows[mine]], column] = values[mine]
        return TextActivations(pieces, ids, kept, chosen.astype(np.int64), dense)


def sae_sha256(sae: SparseAutoencoder) -> str:
    """Return a hash of an SAE's architecture, options, weights and buffers: what tells it from every other."""
    said = repr((sae.name, sorted(sae.options().items()))).encode()
    return hashlib.sha256(said + tensors_sha256(sorted(sae.state_dict().items())).encode()).hexdigest()


def check_same_sae(facts: dict[str, Any], sae: SparseAutoencoder, path: str, store: str) -> None:
    """Raise UserError unless a store was made with this SAE."""
    if facts["sae"]["sha256"] != sae_sha256(sae):
        raise UserError(
            f"sae={path}: store={store} was made with another SAE ({facts['sae']['name']}); give that one, or index "
            "the text with this one"
        )


def open_reader(
    facts: dict[str, Any], sae_path: str | None = None, store: str = "", device: str | None = None
) -> Reader:
    """Load what a store says it was made with. sae_path: where the SAE lies now. device: None for CUDA where it is.

    Raises UserError where the SAE is gone or is another one; a language model says for itself that it is gone.
    """
    path = sae_path or facts["sae"]["path"]
    if not Path(path).expanduser().exists():
        raise UserError(
            f"sae={path}: the SAE that the store was made with is not there; give sae=... where it lies now"
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    sae = formats.read(path).to(device)
    check_same_sae(facts, sae, path, store)
    models = [LazyLM(**{**one, "device": device}) for one in facts["lm"]["load"]]
    lm = models[0] if len(models) == 1 else PairedLM(*models)
    mask = None if facts["mask"] is None else MaskPolicy.from_dict(facts["mask"])
    sites = Sites(tuple(facts["sites"]["read"]), tuple(facts["sites"]["write"]))
    data = facts["data"]
    return Reader(
        lm, sae, sites, mask, int(data["context_length"]), int(data["micro_batch"]), bool(data.get("prepend_bos"))
    )

"""Text as it comes, and a unit's activations on it: what patterns are scored on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from sae_lightning.core import UserError, derive_seed
from sae_lightning.store import FeatureStore
from sae_lightning.studies.autointerp.records import Record


@dataclass(frozen=True)
class Natural:
    """Whole texts, one after the other, and one unit's activation on each token.

    text: number of each token's text. kept: which tokens the mask leaves in; the others are context.
    """

    token_ids: Int[NDArray, "n"]
    text: Int[NDArray, "n"]
    kept: Bool[NDArray, "n"]
    values: Float[NDArray, "n"]

    @property
    def begin(self) -> Int[NDArray, "n"]:
        """The place of the first token of each token's text."""
        new = np.r_[True, self.text[1:] != self.text[:-1]] if len(self.text) else np.zeros(0, bool)
        return np.maximum.accumulate(np.where(new, np.arange(len(self.text)), 0))


#: Gives what a record's unit does on natural text, of which the record shows nothing.
Observe = Callable[[Record], Natural]


class StoreTexts:
    """Features on texts of a store, drawn at random: about ``tokens`` of them, the same for every feature.

    Called with a record it leaves out the texts that the record shows. within: only the first so many tokens of the
    store. Raises UserError for a neuron, which a store knows nothing of.
    """

    def __init__(self, store: FeatureStore, tokens: int = 200_000, seed: int = 0, within: int | None = None) -> None:
        self.store = store
        starts = np.asarray(store.text_starts, np.int64)
        whole = np.flatnonzero(starts[1:] <= (store.n_tokens if within is None else within))
        order = np.random.default_rng(derive_seed(seed, "autointerp", "texts")).permutation(whole)
        sizes = np.diff(starts)[order]
        texts = np.sort(order[: int(np.searchsorted(np.cumsum(sizes), tokens)) + 1])
        self.texts = texts[starts[texts] < starts[texts + 1]]
        self._starts = starts

    def __call__(self, record: Record) -> Natural:
        if record.unit.kind != "feature":
            raise UserError(f"{record.unit}: a feature store knows features alone")
        shown = {stretch.text for stretch in record.shown}
        texts = [int(text) for text in self.texts if int(text) not in shown]
        parts = [(int(self._starts[text]), int(self._starts[text + 1]), text) for text in texts]
        return _read(self.store, record.unit.index, parts)


def _read(store: FeatureStore, feature: int, parts: Iterable[tuple[int, int, int]]) -> Natural:
    tokens, values = store.column(feature)
    ids, text, kept, found = [], [], [], []
    for first, last, number in parts:
        ids.append(np.asarray(store.token_ids[first:last], np.int64))
        kept.append(np.asarray(store.kept[first:last], bool))
        text.append(np.full(last - first, number, np.int64))
        a, b = np.searchsorted(tokens, [first, last])
        row = np.zeros(last - first, np.float32)
        row[tokens[a:b] - first] = values[a:b]
        found.append(row)
    if not ids:
        return Natural(*(np.zeros(0, kind) for kind in (np.int64, np.int64, bool, np.float32)))
    return Natural(np.concatenate(ids), np.concatenate(text), np.concatenate(kept), np.concatenate(found))

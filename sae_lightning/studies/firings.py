"""How often each feature of a store fires in each of its texts, counted for more than one study."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sae_lightning.metrics import FEWEST
from sae_lightning.store import FeatureStore
from sae_lightning.studies.progress import track

# Groups of texts, and numbers [groups, d_sae] in all: 256 MB in float64.
_GROUPS, _COUNTS = 1024, 1 << 25
# Pairs that are counted at once.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Firings:
    """n: tokens that count, [groups]. counts: firings [groups, d_sae]. Whole numbers in float64."""

    n: Float[NDArray, "groups"]
    counts: Float[NDArray, "groups d_sae"]

    def information(self) -> Float[NDArray, "d_sae"]:
        """Return the mutual information of "feature i fires" and "which text", in nats a token, plug-in estimate.

        ``sum_g n_g / n KL(p_gi || p_i)`` with p_gi the share of group g's tokens on which i fires, p_i that of all, and
        KL that of a yes or no. 0 for what fires everywhere alike (and never), large for what is frequent in some texts
        and absent from others: the subject of a text, rather than a word that every text has.
        """
        n = self.n.sum()
        total = self.counts.sum(0)
        out = np.zeros(self.counts.shape[1])
        for tokens, counts in zip(self.n, self.counts, strict=True):
            for inside, all_inside in ((counts, total), (tokens - counts, n - total)):
                # 0 log 0 is 0.
                ratio = inside * n / np.maximum(tokens * all_inside, 1.0)
                out += inside * np.log(np.where(inside > 0, ratio, 1.0))
        return out / max(1.0, n)


def firings_by_text(store: FeatureStore, what: str = "firings", show_progress: bool = True) -> Firings:
    """Count each text by itself; of more than 1,024 (fewer in an SAE of more than 32,768 features) neighbours together.

    Memory does not grow with the store: groups times features are at most 2^25 numbers.
    """
    groups = max(1, min(store.n_texts, _GROUPS, max(FEWEST, _COUNTS // store.d_sae)))
    edges = store.text_starts[np.arange(groups + 1) * store.n_texts // groups].tolist()
    n, counts = np.zeros(groups), np.zeros((groups, store.d_sae))
    for group in track(range(groups), groups, what, show_progress):
        first, last = edges[group], edges[group + 1]
        n[group] = np.count_nonzero(store.kept[first:last])
        begin, end = int(store.csr.offsets[first]), int(store.csr.offsets[last])
        for at in range(begin, end, _CHUNK):
            pairs = store.csr.indices[at : min(at + _CHUNK, end)]
            counts[group] += np.bincount(pairs, minlength=store.d_sae)
    return Firings(n, counts)

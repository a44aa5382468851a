"""On how many tokens two features fire together: sparse products of a store with itself, or with another one."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from sae_lightning.store import FeatureStore, Sparse
from sae_lightning.studies.progress import track

# Memory of the sums [rows, d_sae] that are added up at once: counts take 4 bytes and products 8, and as much again
# while a product is made.
_SUMS = 640 << 20
# Sums that are handed out at once: their scores take several times 32 MB.
_PIECE = 1 << 22
# Pairs of a stretch of tokens that is multiplied at once, least and most, and in between so many a feature: few enough
# that they stay in the cache, and enough to be worth going through all sums.
_STRETCH = (1 << 20, 1 << 24)
_STRETCH_PER_FEATURE = 512
# Up to so many tokens a count is exact in float32.
_EXACT = 1 << 24


class Cofiring(NamedTuple):
    """Some features against all: on how many tokens both fire, and the sum of their activations' products there.

    products: None where they were not asked for.
    """

    features: Int[NDArray, "b"]
    counts: Int[NDArray, "b d_sae"]
    products: Float[NDArray, "b d_sae"] | None


def cofiring(
    store: FeatureStore,
    features: Sequence[int] | NDArray[np.integer] | None = None,
    *,
    other: FeatureStore | None = None,
    products: bool = False,
    what: str = "features that fire together",
    show: bool = True,
) -> Iterator[Cofiring]:
    """Yield ``features`` (None: all) of ``store`` against all features of ``other`` (None: of the same store).

    ``counts[i, j] = |{t: a_i(t) != 0 and b_j(t) != 0}|``, int64, and ``products[i, j] = sum_t a_i(t) b_j(t)``, added up
    in float64. other: must hold the same tokens. A few rows at a time, in the order of ``features``; memory is bounded
    (about 1 GB) whatever the size of store and SAE, and the time is that of ``sum_t l0(t)²`` additions.

    Raises UserError for a feature that is out of range.
    """
    right = store if other is None else other
    assert right.n_tokens == store.n_tokens, "two stores of the same tokens"
    chosen = np.arange(store.d_sae) if features is None else np.asarray(features, np.int64)
    for feature in chosen[(chosen < 0) | (chosen >= store.d_sae)]:
        store.check_feature(int(feature))
    rows = max(1, _SUMS // ((20 if products else 8) * right.d_sae))
    edges = _stretches(right)
    places = edges.astype(store.csc.indices.dtype)  # of one type with what they are looked up in: nothing is copied
    blocks = [chosen[first : first + rows] for first in range(0, len(chosen), rows)]
    steps = [(block, stretch) for block in blocks for stretch in range(len(edges) - 1)]
    sums = _Sums(0, 0, False)
    cuts: list[NDArray] = []
    for block, stretch in track(steps, len(steps), what, show):
        if stretch == 0:
            sums = _Sums(len(block), right.d_sae, products)
            cuts = [np.searchsorted(store.column(int(i))[0], places) for i in block]
        first, last = int(edges[stretch]), int(edges[stretch + 1])
        inside = [slice(int(cut[stretch]), int(cut[stretch + 1])) for cut in cuts]
        sums.add(_columns(store, block, inside, first), _rows(right, first, last))
        if stretch == len(edges) - 2:
            yield from sums.pieces(block)


def pair_counts(
    store: FeatureStore,
    features: Sequence[int] | NDArray[np.integer],
    *,
    other: FeatureStore | None = None,
    show: bool = True,
) -> NDArray[np.int64]:
    """Return on how many tokens each of ``features`` fires together with each feature [len(features), d_sae], int64.

    other: count the firings of its features, on the same tokens. For many features at once see ``cofiring``.
    """
    parts = [part.counts for part in cofiring(store, features, other=other, show=show)]
    width = (store if other is None else other).d_sae
    return np.concatenate(parts) if parts else np.zeros((0, width), np.int64)


def pair_products(
    store: FeatureStore, partners: Int[NDArray, "d_sae n"], *, what: str = "products of partners", show: bool = True
) -> Float[NDArray, "d_sae n"]:
    """Return ``sum_t a_i(t) a_j(t)`` of each feature i and its partners j = ``partners[i]``, float64; 0 where j is -1.

    The time is that of ``sum min(n_i, n_j)`` additions over the pairs, n_i the firings of i: for a few partners a
    fraction of what ``cofiring`` takes for all pairs. Memory: 4 bytes a token.
    """
    out = np.zeros(partners.shape)
    i, place = np.nonzero(partners >= 0)
    j, firings = partners[i, place], store.stats.count
    often, seldom = np.where(firings[i] >= firings[j], (i, j), (j, i))
    order = np.argsort(often, kind="stable")
    laid_out = np.zeros(store.n_tokens, np.float32)
    last = -1
    for pair in track(order, len(order), what, show):
        if (feature := int(often[pair])) != last:
            if last >= 0:
                laid_out[store.column(last)[0]] = 0
            tokens, values = store.column(feature)
            laid_out[tokens] = values
            last = feature
        tokens, values = store.column(int(seldom[pair]))
        # Not np.dot: BLAS hands even short sums to threads, which takes ten times as long.
        out[i[pair], place[pair]] = np.multiply(laid_out[tokens], values, dtype=np.float64).sum()
    return out


class _Sums:
    """Sums of one block of features: float32 where they are counts below 2^24, then int64; products float64."""

    def __init__(self, rows: int, columns: int, products: bool) -> None:
        self._recent = torch.zeros(rows, columns)
        self._counts = torch.zeros(0, columns, dtype=torch.int64)
        self._tokens = 0
        self._products = torch.zeros(rows, columns, dtype=torch.float64) if products else None

    def add(self, left: Sparse, right: Sparse) -> None:
        """Add ``left @ right`` and the same of their firings. left [rows, tokens], right [tokens, columns]."""
        tokens = len(right.offsets) - 1
        if self._tokens + tokens > _EXACT:
            self._counts = self._recent.long() if not len(self._counts) else self._counts.add_(self._recent.long())
            self._recent.zero_()
            self._tokens = 0
        self._tokens += tokens
        _add_product(self._recent, *(replace(part, values=np.ones_like(part.values)) for part in (left, right)))
        if self._products is not None:
            wide = (replace(part, values=part.values.astype(np.float64)) for part in (left, right))
            _add_product(self._products, *wide)

    def pieces(self, features: NDArray[np.int64]) -> Iterator[Cofiring]:
        """Yield the sums, a few rows at a time."""
        rows = max(1, _PIECE // self._recent.shape[1])
        for first in range(0, len(features), rows):
            part = slice(first, first + rows)
            counts = self._recent[part].long()
            if len(self._counts):
                counts += self._counts[part]
            products = None if self._products is None else self._products[part].numpy()
            yield Cofiring(features[part], counts.numpy(), products)


def _stretches(store: FeatureStore) -> NDArray[np.int64]:
    """Return where stretches of tokens begin, of at most 2^24 tokens each, and the end."""
    pairs = int(np.clip(_STRETCH_PER_FEATURE * store.d_sae, *_STRETCH))
    offsets = store.csr.offsets
    edges = np.searchsorted(offsets, np.arange(pairs, store.nnz, pairs, dtype=offsets.dtype))
    found = np.unique(np.concatenate([edges, np.arange(0, store.n_tokens, _EXACT), [0, store.n_tokens]]))
    return found if len(found) > 1 else np.zeros(2, np.int64)


def _columns(store: FeatureStore, block: NDArray, inside: list[slice], first: int) -> Sparse:
    """Return the block's features on the tokens ``inside`` of each one's, [features, tokens]; ``first`` is token 0."""
    columns = [store.column(int(i)) for i in block]
    tokens = [tokens[part] for (tokens, _), part in zip(columns, inside, strict=True)]
    values = [values[part] for (_, values), part in zip(columns, inside, strict=True)]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in tokens])])
    return Sparse(_narrow(offsets), _narrow(np.concatenate(tokens) - first), np.concatenate(values))


def _rows(store: FeatureStore, first: int, last: int) -> Sparse:
    """Return tokens ``first`` to ``last - 1`` [tokens, d_sae]."""
    offsets = store.csr.offsets[first : last + 1]
    part = slice(int(offsets[0]), int(offsets[-1]))
    return Sparse(_narrow(offsets - offsets[0]), _narrow(store.csr.indices[part]), np.array(store.csr.values[part]))


def _narrow(numbers: NDArray[np.integer]) -> NDArray[np.int32]:
    return numbers.astype(np.int32)


def _add_product(out: Float[Tensor, "n m"], left: Sparse, right: Sparse) -> None:
    """Add ``left @ right`` to ``out``. MKL adds straight into it, on all threads; scipy takes three times as long."""
    if not len(left.indices) or not len(right.indices):
        return
    n, tokens, m = len(out), len(right.offsets) - 1, out.shape[1]
    if torch.backends.mkl.is_available():
        torch.addmm(out, _tensor(left, (n, tokens)), _tensor(right, (tokens, m)), out=out)
        return
    a = csr_matrix((left.values, left.indices, left.offsets), shape=(n, tokens))
    b = csr_matrix((right.values, right.indices, right.offsets), shape=(tokens, m))
    step = max(1, _PIECE // m)
    for first in range(0, n, step):
        out[first : first + step] += torch.from_numpy((a[first : first + step] @ b).toarray())


def _tensor(matrix: Sparse, shape: tuple[int, int]) -> Tensor:
    parts = (torch.from_numpy(part) for part in (matrix.offsets, matrix.indices, matrix.values))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(*parts, size=shape, check_invariants=False)

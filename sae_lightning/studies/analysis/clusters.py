"""Which groups of features fire together, and on what?"""

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple, cast

import numpy as np
from annotated_types import Ge, Gt, Le
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sae_lightning.core import derive_seed
from sae_lightning.store import FeatureStore
from sae_lightning.studies.association import Measure, Partners, strongest_partners
from sae_lightning.studies.progress import track
from sae_lightning.studies.study import Cell, Result, Study, Table
from sae_lightning.studies.subject import NEEDS_STORE, Subject

if TYPE_CHECKING:
    import networkx

# Pairs of tokens and features that are gone through at once.
_PAIRS = 1 << 22
# What a firing scores, see ``_scores``; up to 2^18 of them fit.
_ONE = 1 << 42
# Tokens that are looked at for one that is shown.
_LOOKED_AT = 8


class _Shared(NamedTuple):
    """Of each cluster: cohesion, the tokens that the most of its features share, and how many do (0: no such token)."""

    cohesion: Float[NDArray, "n"]
    tokens: Int[NDArray, "n examples"]
    active: Int[NDArray, "n examples"]


class ClustersStudy(Study):
    """Clusters of features that fire together on the tokens of a store that count, and the tokens they share.

    The graph: an edge from each feature to its n strongest partners by ``measure`` (``strongest_partners``: together on
    at least ``min_count`` tokens and more than by chance), with the measure as weight. Features that fire on more than
    ``max_density`` of the tokens are left out: they accompany everything. Clusters are the communities that the Louvain
    method finds in it (Blondel et al. 2008; networkx), those of at least ``min_size`` features, numbered from the
    largest on, of equal ones from the one with the lowest feature on. resolution: the higher, the
    more and the smaller.

    ``cohesion``: where a feature of the cluster fires, the share of the others that fire, too. With s features, m(t) of
    which fire on token t, ``sum_t m(t) (m(t) - 1) / ((s - 1) sum_t m(t))``: 1 where all fire on the same tokens, 0
    where no two ever do.

    Array: ``cluster`` [d_sae] int32, -1 for features in none. Tables, of the first ``shown`` clusters: ``clusters``,
    with up to ``named`` features, those with the greatest weight of edges inside it first; ``shared_examples``, of each
    ``examples`` tokens on which the most of its features fire (two at least; ``active`` is how many), of equal ones
    those on which they are stronger (the sum of each one's |activation| over its largest), then the earlier. Of a text
    one is shown, and of contexts that are alike to the letter; 8 tokens are looked at for each that is shown.

    context: tokens shown before and after. seed: of the order in which Louvain goes through the features.
    """

    name: ClassVar[str] = "clusters"
    reads_store: ClassVar[bool] = True

    def __init__(
        self,
        measure: Measure = "jaccard",
        n: Annotated[int, Ge(1)] = 10,
        min_count: Annotated[int, Ge(1)] = 10,
        max_density: Annotated[float, Gt(0), Le(1)] = 0.1,
        resolution: Annotated[float, Gt(0)] = 10.0,
        min_size: Annotated[int, Ge(2)] = 3,
        shown: Annotated[int, Ge(1)] = 200,
        named: Annotated[int, Ge(1)] = 20,
        examples: Annotated[int, Ge(1)] = 5,
        context: Annotated[int, Ge(0)] = 10,
        seed: int = 0,
        show_progress: bool = True,
    ) -> None:
        self.measure: Measure = measure
        self.n, self.min_count, self.max_density, self.resolution = n, min_count, max_density, resolution
        self.min_size, self.shown, self.named = min_size, shown, named
        self.examples, self.context, self.seed, self.show_progress = examples, context, seed, show_progress

    def reason(self, subject: Subject) -> str | None:
        return NEEDS_STORE if subject.store is None else None

    def run(self, subject: Subject) -> Result:
        store = subject.store
        assert store is not None
        dense = store.stats.count > self.max_density * store.n_kept
        partners = strongest_partners(
            store, self.measure, self.n, min_count=self.min_count, left_out=dense, show=self.show_progress
        )
        graph = _graph(partners, self.measure)
        clusters = self._communities(graph)
        cluster = np.full(store.d_sae, -1, np.int32)
        for number, members in enumerate(clusters):
            cluster[members] = number
        shared = self._shared(store, cluster, len(clusters))
        tables = {
            "clusters": self._table(clusters, graph, shared.cohesion),
            "shared_examples": self._examples(store, shared),
        }
        notes = (
            f"{len(clusters):,} clusters hold {int((cluster >= 0).sum()):,} of {store.d_sae:,} features; "
            f"{int(dense.sum()):,} fire on more than {self.max_density:.0%} of the tokens and were left out",
        )
        return Result({}, tables, notes, arrays={"cluster": cluster})

    def _communities(self, graph: "networkx.Graph") -> list[NDArray[np.int64]]:
        """Return the features of each cluster, ascending, the largest cluster first."""
        import networkx

        seed = derive_seed(self.seed, "studies", self.name)
        found = networkx.community.louvain_communities(graph, resolution=self.resolution, seed=seed)
        large = [np.array(sorted(members), np.int64) for members in found if len(members) >= self.min_size]
        return sorted(large, key=lambda members: (-len(members), int(members[0])))

    def _shared(self, store: FeatureStore, cluster: Int[NDArray, "d_sae"], n: int) -> _Shared:
        """Go through all tokens once."""
        best = _Best(n, _LOOKED_AT * self.examples)
        firings, pairs = np.zeros(n), np.zeros(n)
        members = np.flatnonzero(cluster >= 0)
        belongs = csr_matrix((np.ones(len(members), np.int64), (members, cluster[members])), shape=(store.d_sae, n))
        stretches = _stretches(store) if n else []
        for first, last in track(stretches, len(stretches), "examples of clusters", self.show_progress):
            score = cast(csr_matrix, _scores(store, first, last) @ belongs).tocoo()
            count = score.data // _ONE
            firings += np.bincount(score.col, count, minlength=n)
            pairs += np.bincount(score.col, count * (count - 1), minlength=n)
            two = count >= 2
            best.add(score.col[two], score.row[two].astype(np.int64) + first, score.data[two])
        sizes = np.bincount(cluster[members], minlength=n)
        return _Shared(pairs / ((sizes - 1) * firings), best.tokens, best.scores // _ONE)

    def _table(
        self, clusters: list[NDArray[np.int64]], graph: "networkx.Graph", cohesion: Float[NDArray, "n"]
    ) -> Table:
        rows: list[tuple[Cell, ...]] = []
        for number, members in enumerate(clusters[: self.shown]):
            inside = graph.subgraph(members.tolist()).degree(weight="weight")
            first = members[np.argsort([-inside[i] for i in members.tolist()], kind="stable")[: self.named]]
            named = " ".join(map(str, first)) + (" ..." if len(members) > self.named else "")
            rows.append((number, len(members), named, float(cohesion[number])))
        caption = (
            "Clusters of features that fire together, the best connected features first; cohesion: where one of its "
            f"features fires, the share of the others that fire, too{self._first(len(clusters))}"
        )
        return Table(("cluster", "size", "features", "cohesion"), tuple(rows), caption)

    def _examples(self, store: FeatureStore, shared: _Shared) -> Table:
        rows: list[tuple[Cell, ...]] = []
        for number in range(min(len(shared.tokens), self.shown)):
            rows += [(number, *row) for row in self._distinct(store, shared.tokens[number], shared.active[number])]
        first = self._first(len(shared.tokens))
        caption = f"Tokens on which the most of a cluster's features fire; active: how many{first}"
        return Table(("cluster", "token", "before", "piece", "after", "active"), tuple(rows), caption)

    def _distinct(
        self, store: FeatureStore, tokens: Int[NDArray, "m"], active: Int[NDArray, "m"]
    ) -> list[tuple[Cell, ...]]:
        """Return (token, before, piece, after, active) of the first tokens that are of different texts and differ."""
        rows: list[tuple[Cell, ...]] = []
        seen: set[object] = set()
        for token, count in zip(tokens.tolist(), active.tolist(), strict=True):
            if not count or len(rows) == self.examples:
                break
            found = store.context(token, before=self.context, after=self.context)
            shown = found.before, found.token, found.after
            if found.text not in seen and shown not in seen:
                rows.append((token, *shown, count))
                seen |= {found.text, shown}
        return rows

    def _first(self, n: int) -> str:
        return f"; the first {self.shown:,} of {n:,} clusters" if n > self.shown else ""


def _graph(partners: Partners, measure: Measure) -> "networkx.Graph":
    """Return features and their strongest partners, in the order of their numbers, which Louvain's draws go by."""
    import networkx

    feature, place = np.nonzero(partners.partner >= 0)
    other, weight = partners.partner[feature, place], getattr(partners, measure)[feature, place]
    graph = networkx.Graph()
    graph.add_nodes_from(np.unique(np.concatenate([feature, other])).tolist())
    graph.add_weighted_edges_from(zip(feature.tolist(), other.tolist(), weight.tolist(), strict=True))
    return graph


def _stretches(store: FeatureStore) -> list[tuple[int, int]]:
    """Return (first, last) of stretches of tokens of about ``_PAIRS`` pairs."""
    offsets = store.csr.offsets
    begin = np.searchsorted(offsets, np.arange(0, store.nnz, _PAIRS, dtype=offsets.dtype))
    return list(pairwise(np.unique(np.concatenate([[0], begin, [store.n_tokens]])).tolist()))


def _scores(store: FeatureStore, first: int, last: int) -> csr_matrix:
    """Return the score of every firing on tokens ``first`` to ``last - 1`` [tokens, d_sae]: sums of them are exact.

    One, and in steps of 2^-24 that are too small to add up to another one, the |activation| over the feature's largest.
    """
    offsets = store.csr.offsets[first : last + 1]
    part = slice(int(offsets[0]), int(offsets[-1]))
    features = store.csr.indices[part]
    largest = np.maximum(store.stats.largest, np.finfo(np.float32).tiny).astype(np.float64)
    share = (np.abs(store.csr.values[part]) / largest[features]).clip(0, 1)
    score = _ONE + np.rint(share * (1 << 24)).astype(np.int64)
    return csr_matrix((score, features, offsets - offsets[0]), (last - first, store.d_sae))


class _Best:
    """Of each of n clusters the k tokens with the highest scores, of equal ones the earlier; a score of 0: none."""

    def __init__(self, n: int, k: int) -> None:
        self.tokens, self.scores = np.zeros((n, k), np.int64), np.zeros((n, k), np.int64)

    def add(self, cluster: Int[NDArray, "m"], token: Int[NDArray, "m"], score: Int[NDArray, "m"]) -> None:
        """Take in scores of tokens that come after all that were taken in before."""
        n, k = self.scores.shape
        better = score > self.scores[cluster, -1]
        old, place = np.nonzero(self.scores)
        cluster = np.concatenate([old, cluster[better]])
        token = np.concatenate([self.tokens[old, place], token[better]])
        score = np.concatenate([self.scores[old, place], score[better]])
        order = np.lexsort((token, -score, cluster))
        cluster, token, score = cluster[order], token[order], score[order]
        rank = np.arange(len(cluster)) - np.searchsorted(cluster, np.arange(n))[cluster]
        kept = rank < k
        self.tokens[cluster[kept], rank[kept]] = token[kept]
        self.scores[cluster[kept], rank[kept]] = score[kept]

"""Which features of a wide SAE descend from one of a narrow SAE?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.core import derive_seed
from sae_lightning.metrics import interval
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.store import FeatureStore
from sae_lightning.studies.cofiring import cofiring
from sae_lightning.studies.directions import written
from sae_lightning.studies.progress import track
from sae_lightning.studies.study import Cell, ComparativeStudy, Estimate, Result, Table
from sae_lightning.studies.subject import Subject, other_model
from sae_lightning.studies.windows import DRAWS

KINDS = ("split", "kept", "partial", "absent")
COLUMNS = ("narrow", "wide", "cosine", "narrow_if_wide", "wide_if_narrow", "any_if_narrow")

# Cosines of one block [rows, wide features]: 16 MB.
_COSINES = 1 << 22
# Tokens whose firings are counted at once.
_TOKENS = 1 << 17


class SplittingStudy(ComparativeStudy):
    """What becomes of the features of a narrow SAE in a wide one that writes the same activations, for every pair.

    A wide feature w *descends* from a narrow one n where it points the same way and fires inside it: the cosine of
    their decoder rows is at least ``cosine``, and ``P(n fires | w fires)`` at least ``inside``. Then n is

    - ``kept`` where one of its descendants covers it alone: ``P(w fires | n fires)`` is at least ``covers``;
    - ``split`` where it has several and none covers it alone;
    - ``partial`` where it has one and that one doesn't cover it;
    - ``absent`` where it has none.

    ``splitting_split/A -> B`` and so on are the shares of the narrow features that fire at least ``min_firings`` times;
    rarer ones of either SAE are left out. Probabilities are shares of tokens, and tokens those that both SAEs' masks
    keep; for them both SAEs need a store of the same tokens. Where they lack one, the note says so, and geometry alone
    decides, over all features: every wide feature with the cosine descends, and one with a cosine of ``same`` or more
    covers. That finds more descendants than there are: what points the same way need not fire at the same place.

    Intervals: a bootstrap over the narrow features. Estimates count features. Table ``splits A -> B``: of up to
    ``shown`` split features every descendant, those best covered first; ``narrow_if_wide`` is P(n fires | w fires),
    ``wide_if_narrow`` the reverse, ``any_if_narrow`` the probability that any descendant fires where n does. Source of
    the question: Bricken et al. 2023, "Towards Monosemanticity".

    seed, draws: of the bootstrap. Pairs of different d_out or of equal d_sae are left out and noted.
    """

    name: ClassVar[str] = "splitting"
    reads_store: ClassVar[bool] = True

    def __init__(
        self,
        cosine: Annotated[float, Gt(0), Le(1)] = 0.4,
        inside: Annotated[float, Gt(0), Le(1)] = 0.7,
        covers: Annotated[float, Gt(0), Le(1)] = 0.8,
        same: Annotated[float, Gt(0), Le(1)] = 0.9,
        min_firings: Annotated[int, Ge(1)] = 20,
        shown: Annotated[int, Ge(1)] = 50,
        seed: int = 0,
        draws: Annotated[int, Ge(100)] = DRAWS,
        show_progress: bool = True,
    ) -> None:
        self.cosine, self.inside, self.covers, self.same = cosine, inside, covers, same
        self.min_firings, self.shown = min_firings, shown
        self.seed, self.draws, self.show_progress = seed, draws, show_progress

    def reason_all(self, subjects: Mapping[str, Subject]) -> str | None:
        if reason := super().reason_all(subjects):
            return reason
        shapes = [(subject.sae.d_out, subject.sae.d_sae) for subject in subjects.values()]
        if not any(a[0] == b[0] and a[1] != b[1] for a, b in combinations(shapes, 2)):
            said = ", ".join(f"{d_sae:,} of width {d_out}" for d_out, d_sae in shapes)
            return f"needs a narrow and a wide SAE of one site; these have features {said}"
        return None

    def run_all(self, subjects: Mapping[str, Subject], results: Mapping[str, Mapping[str, Result]]) -> Result:
        estimates: dict[str, Estimate] = {}
        tables: dict[str, Table] = {}
        notes: list[str] = []
        for pair in combinations(subjects, 2):
            a, b = sorted(pair, key=lambda name: subjects[name].sae.d_sae)
            one, two = subjects[a].sae, subjects[b].sae
            if one.d_out != two.d_out or one.d_sae == two.d_sae:
                what = "d_out" if one.d_out != two.d_out else "d_sae"
                notes.append(f"{a} and {b}: {what} {getattr(one, what)} and {getattr(two, what)}: not compared")
                continue
            if other_model(subjects[a], subjects[b]):
                notes.append(f"{a} and {b} read different language models: not compared")
                continue
            if None not in (sites := [sae.metadata.get("sites") for sae in (one, two)]) and sites[0] != sites[1]:
                notes.append(f"{a} and {b} were trained on different sites: their directions may mean different things")
            stores, why = _stores(subjects, a, b)
            if why:
                notes.append(f"{why}: geometry alone decides what {b} has of {a}")
            title = f"{a} -> {b}"
            found = self._descent(_Pair(_directions(one), _directions(two), stores), title)
            kinds = self._kinds(found)
            estimates |= self._estimates(kinds[found.asked], title)
            tables[f"splits {title}"] = self._table(found, kinds, stores, a, b)
        return Result(estimates, tables, tuple(notes))

    def _descent(self, pair: "_Pair", title: str) -> "_Descent":
        """Return who descends from whom, and which narrow features are asked about."""
        count_n, count_w = pair.firings()
        asked = np.ones(len(pair.narrow), np.bool_) if count_n is None else count_n >= self.min_firings
        parts: list[tuple[NDArray, ...]] = [(np.zeros(0, np.int64),) * 2 + (np.zeros(0),) * 3]
        for rows, counts in pair.blocks(np.flatnonzero(asked), f"splitting {title}", self.show_progress):
            cosines = (pair.narrow[rows] @ pair.wide.T).double().numpy()
            descends = cosines >= self.cosine
            if counts is None or count_n is None or count_w is None:
                i, j = np.nonzero(descends)
                inside, covers = np.full(len(i), np.nan), np.full(len(i), np.nan)
            else:
                i, j = np.nonzero(descends & (counts >= self.inside * count_w) & (count_w >= self.min_firings))
                inside, covers = counts[i, j] / count_w[j], counts[i, j] / count_n[rows[i]]
            parts.append((rows[i], j, cosines[i, j], inside, covers))
        return _Descent(asked, count_n is not None, *(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _kinds(self, found: "_Descent") -> Int[NDArray, "narrow"]:
        """Return each narrow feature's kind, its place in ``KINDS``."""
        n = np.bincount(found.narrow, minlength=len(found.asked))
        covers = found.covers >= self.covers if found.fired else found.cosine >= self.same
        kept = np.bincount(found.narrow[covers], minlength=len(n)) > 0
        return np.select([kept, n > 1, n == 1], [KINDS.index(kind) for kind in ("kept", "split", "partial")], 3)

    def _estimates(self, kinds: Int[NDArray, "n"], title: str) -> dict[str, Estimate]:
        n = len(kinds)
        if not n:
            return {f"splitting_{kind}/{title}": Estimate(None, None, None, 0) for kind in KINDS}
        shares = np.bincount(kinds, minlength=len(KINDS)) / n
        # Drawing n features with replacement is drawing n kinds.
        rng = np.random.default_rng(derive_seed(self.seed, "studies", self.name, title))
        draws = rng.multinomial(n, shares, size=self.draws) / n
        return {
            f"splitting_{kind}/{title}": Estimate(share, *(interval(share, drawn, n) or (None, None)), n)
            for kind, share, drawn in zip(KINDS, shares.tolist(), draws.T, strict=True)
        }

    def _table(self, found: "_Descent", kinds: Int[NDArray, "narrow"], stores: "_Stores", a: str, b: str) -> Table:
        split = kinds[found.narrow] == KINDS.index("split")
        weight = found.covers if found.fired else found.cosine
        total = np.bincount(found.narrow[split], weight[split], minlength=len(kinds))
        features = np.flatnonzero((kinds == KINDS.index("split")) & found.asked)
        rows: list[tuple[Cell, ...]] = []
        for feature in features[np.argsort(-total[features], kind="stable")][: self.shown]:
            mine = np.flatnonzero(found.narrow == feature)
            mine = mine[np.argsort(-weight[mine], kind="stable")]
            together = None if stores is None else _any_fires(stores, int(feature), found.wide[mine])
            for one in mine:
                fired = (float(found.inside[one]), float(found.covers[one])) if found.fired else (None, None)
                rows.append((int(feature), int(found.wide[one]), float(found.cosine[one]), *fired, together))
        more = f"; the first {self.shown:,}" if len(features) > self.shown else ""
        what = f"{len(features):,} of {int(found.asked.sum()):,} features of {a} are split in {b}"
        return Table(COLUMNS, tuple(rows), f"{what}: each with its descendants, best covered first{more}")


_Stores = tuple[FeatureStore, FeatureStore] | None


@dataclass(frozen=True)
class _Descent:
    """asked [narrow]: features that fire often enough. The rest: of each descendant, wide feature of a narrow one.

    fired: False where there are no probabilities (NaN) and geometry alone decides. inside: P(n|w). covers: P(w|n).
    """

    asked: NDArray[np.bool_]
    fired: bool
    narrow: Int[NDArray, "m"]
    wide: Int[NDArray, "m"]
    cosine: Float[NDArray, "m"]
    inside: Float[NDArray, "m"]
    covers: Float[NDArray, "m"]


@dataclass(frozen=True)
class _Pair:
    """Unit decoder rows of a narrow SAE and of a wide one, and their stores of the same tokens if they have them."""

    narrow: Float[Tensor, "N d"]
    wide: Float[Tensor, "W d"]
    stores: _Stores

    def firings(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | tuple[None, None]:
        """Return how often each feature fires on tokens that both keep."""
        if self.stores is None:
            return None, None
        a, b = self.stores
        return _firings(a, b), _firings(b, a)

    def blocks(
        self, features: NDArray[np.int64], what: str, show: bool
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64] | None]]:
        """Yield (a few of the narrow features, on how many tokens each fires together with each wide one)."""
        if self.stores is not None:
            for part in cofiring(self.stores[0], features, other=self.stores[1], what=what, show=show):
                yield part.features, part.counts
            return
        step = max(1, _COSINES // len(self.wide))
        for first in track(range(0, len(features), step), -(-len(features) // step), what, show):
            yield features[first : first + step], None


def _directions(sae: SparseAutoencoder) -> Float[Tensor, "d_sae d_out"]:
    return torch.nn.functional.normalize(written(sae), dim=1).float().cpu()


def _stores(subjects: Mapping[str, Subject], a: str, b: str) -> tuple[_Stores, str]:
    """Return the two stores if they hold the same tokens, and else why there is no telling who fires with whom."""
    one, two = subjects[a].store, subjects[b].store
    if one is None or two is None:
        return None, f"{a if one is None else b} has no store"
    same = one.n_tokens == two.n_tokens and np.array_equal(one.text_starts, two.text_starts)
    if not same or not np.array_equal(one.token_ids, two.token_ids):
        return None, f"the stores of {a} and {b} hold different text"
    return (one, two), ""


def _firings(store: FeatureStore, other: FeatureStore) -> NDArray[np.int64]:
    """Return how often each feature fires on tokens that ``other`` keeps, too [d_sae]."""
    count = np.array(store.stats.count, np.int64)
    offsets = store.csr.offsets
    for first in range(0, store.n_tokens, _TOKENS):
        last = min(first + _TOKENS, store.n_tokens)
        lost = store.kept[first:last] & ~other.kept[first:last]
        if lost.any():
            features = store.csr.indices[int(offsets[first]) : int(offsets[last])]
            fired = features[np.repeat(lost, np.diff(offsets[first : last + 1]))]
            count -= np.bincount(fired, minlength=store.d_sae)
    return count


def _any_fires(stores: tuple[FeatureStore, FeatureStore], narrow: int, wide: NDArray[np.int64]) -> float:
    """Return on which share of a narrow feature's tokens, of those both keep, any of some wide ones fires."""
    tokens = stores[0].column(narrow)[0]
    tokens = tokens[stores[1].kept[tokens]]
    covered = np.zeros(len(tokens), np.bool_)
    for feature in wide:
        covered |= np.isin(tokens, stores[1].column(int(feature))[0], assume_unique=True)
    return float(covered.mean())

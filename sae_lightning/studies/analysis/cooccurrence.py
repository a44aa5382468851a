"""Which features fire together?"""

import shutil
from pathlib import Path
from typing import IO, Annotated, ClassVar

import numpy as np
from annotated_types import Ge

from sae_lightning.core import UserError, atomic_path
from sae_lightning.store import FeatureStore
from sae_lightning.studies.association import Measure, Partners, strongest_partners
from sae_lightning.studies.cofiring import pair_counts
from sae_lightning.studies.study import Result, Study, Table
from sae_lightning.studies.subject import NEEDS_STORE, Subject

__all__ = ["CooccurrenceStudy", "pair_counts"]


class CooccurrenceStudy(Study):
    """The n features that fire most with each feature, on the tokens of a store that count.

    measure: what ranks them, ``correlation``, ``jaccard`` or ``pmi`` (formulas: ``association``). All three are
    reported. Jaccard and correlation favour partners that fire about as often as the feature; PMI favours rare ones,
    hence ``min_count``: partners fire together on at least so many tokens. They also do so on more tokens than
    independent features would (pmi > 0), and the measure is above 0.

    Arrays [d_sae, n], strongest first, of equal ones the lower number: ``partner`` int32 (-1 where there are fewer than
    n), ``partner_count`` int64 tokens on which both fire, ``partner_jaccard``, ``partner_pmi``, ``partner_correlation``
    float32 (NaN). The table has the ``shown`` strongest pairs among them, each once.

    matrix: file that the measure of all pairs is written to as well, [d_sae, d_sae] float32 .npy, row by row, to be
    opened with ``numpy.load(path, mmap_mode="r")``; 4,608 features take 85 MB, 32,768 take 4.3 GB. It is the bare
    formula of every pair: PMI is -inf where two never meet, NaN stands where a feature never fires. Raises UserError
    where there is no room for it.
    """

    name: ClassVar[str] = "cooccurrence"
    reads_store: ClassVar[bool] = True

    def __init__(
        self,
        measure: Measure = "jaccard",
        n: Annotated[int, Ge(1)] = 10,
        min_count: Annotated[int, Ge(1)] = 10,
        shown: Annotated[int, Ge(1)] = 50,
        matrix: str | None = None,
        show_progress: bool = True,
    ) -> None:
        self.measure: Measure = measure
        self.n, self.min_count, self.shown, self.show_progress = n, min_count, shown, show_progress
        self.matrix = None if matrix is None else Path(matrix).expanduser()
        if self.matrix is not None and self.matrix.suffix != ".npy":
            raise UserError(f"matrix={matrix}: must end in .npy; it is written as a NumPy array")

    def reason(self, subject: Subject) -> str | None:
        return NEEDS_STORE if subject.store is None else None

    def run(self, subject: Subject) -> Result:
        store = subject.store
        assert store is not None
        found = self._partners(store, None) if self.matrix is None else self._with_matrix(store, self.matrix)
        arrays = {"partner": found.partner}
        arrays |= {f"partner_{name}": getattr(found, name) for name in ("count", "jaccard", "pmi", "correlation")}
        alone = int((found.partner[:, 0] < 0).sum())
        note = f"{alone:,} of {store.d_sae:,} features have no partner (on {self.min_count:,} tokens or more)"
        return Result({}, {"pairs": self._table(found)}, (note,) if alone else (), arrays=arrays)

    def _partners(self, store: FeatureStore, file: IO[bytes] | None) -> Partners:
        return strongest_partners(
            store,
            self.measure,
            self.n,
            min_count=self.min_count,
            correlations=True,
            each=None if file is None else lambda score: file.write(score.astype("<f4", copy=False).tobytes()),
            show=self.show_progress,
        )

    def _with_matrix(self, store: FeatureStore, path: Path) -> Partners:
        size = 4 * store.d_sae**2
        path.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(path.parent).free) < size:
            raise UserError(
                f"matrix={path}: takes {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; choose another place, or "
                "leave it out: the strongest partners are found without it"
            )
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            shape = {"descr": "<f4", "fortran_order": False, "shape": (store.d_sae, store.d_sae)}
            np.lib.format.write_array_header_1_0(file, shape)
            found = self._partners(store, file)
        return found

    def _table(self, found: Partners) -> Table:
        feature, place = np.nonzero(found.partner >= 0)
        other = found.partner[feature, place]
        low, high = np.minimum(feature, other), np.maximum(feature, other)
        _, first = np.unique(low.astype(np.int64) * len(found.partner) + high, return_index=True)
        value = getattr(found, self.measure)[feature[first], place[first]]
        chosen = first[np.argsort(-value, kind="stable")[: self.shown]]
        rows = []
        for one in chosen:
            at = feature[one], place[one]
            measures = (float(getattr(found, name)[at]) for name in ("jaccard", "pmi", "correlation"))
            rows.append((int(low[one]), int(high[one]), int(found.count[at]), *measures))
        caption = f"The strongest pairs of features by {self.measure}; count: tokens on which both fire; pmi in nats"
        return Table(("feature", "partner", "count", "jaccard", "pmi", "correlation"), tuple(rows), caption)

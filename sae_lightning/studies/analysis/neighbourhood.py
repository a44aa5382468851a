"""Which features lie near each other?"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Le, MinLen
from pydantic import NonNegativeInt

from sae_lightning.core import UserError
from sae_lightning.studies.analysis.layout import (
    FEWEST_POINTS,
    check_features,
    nearest_to,
    placed,
    umap_layout,
    unit_directions,
    without_umap,
)
from sae_lightning.studies.study import Cell, Result, Study, Table
from sae_lightning.studies.subject import Subject

COLUMNS = ("around", "rank", "feature", "cosine", "x", "y")


class NeighbourhoodStudy(Study):
    """``map`` [F, 2]: a place in the plane for every feature, by UMAP of the decoder directions (cosine distance).

    Neighbours in the map are mostly neighbours in activation space; distances between far groups, and the axes, mean
    nothing. Features without a direction (rows of zeros), and those that never fire in the store, have NaN.

    around: place these features and the ``nearest`` directions to each alone, in place of all. The table ``neighbours``
        then lists them with their cosines; a feature is its own neighbour of rank 0.
    dead: place the features that never fire in the store, too.
    n_neighbors, min_dist: UMAP's: how many neighbours a place is made from (fewer: more local), and how close places
             may come. seed: of the layout; the same seed gives the same bits.

    4,608 features take about 8 s on 2 cores, of which UMAP's compilation is half, and 32,000 about 30 s; time grows as
    the square of the features, for their neighbours are exact.

    Source: McInnes, Healy and Melville 2018, "UMAP: Uniform Manifold Approximation and Projection"; of features,
    Bricken et al. 2023, "Towards Monosemanticity", and Templeton et al. 2024, "Scaling Monosemanticity".

    Raises UserError where umap-learn is not installed, and for features that the SAE does not have.
    """

    name: ClassVar[str] = "neighbourhood"
    reads_store: ClassVar[bool] = True

    def __init__(
        self,
        around: Annotated[Sequence[NonNegativeInt], MinLen(1)] | None = None,
        nearest: Annotated[int, Ge(1)] = 100,
        dead: bool = False,
        n_neighbors: Annotated[int, Ge(2), Le(1000)] = 15,
        min_dist: Annotated[float, Gt(0), Le(1)] = 0.1,
        seed: int = 0,
        show_progress: bool = True,
    ) -> None:
        self.around, self.nearest, self.dead = None if around is None else tuple(around), nearest, dead
        self.n_neighbors, self.min_dist = n_neighbors, min_dist
        self.seed, self.show_progress = seed, show_progress

    def reason(self, subject: Subject) -> str | None:
        return without_umap()

    def run(self, subject: Subject) -> Result:
        if reason := self.reason(subject):
            raise UserError(f"{self.name}: {reason}")
        rows = unit_directions(subject.sae.W_dec)
        there, notes = placed(subject, self.dead)
        directions = (rows != 0).any(1).numpy()
        there &= directions
        if zeros := int((~directions).sum()):
            notes.append(f"{zeros:,} features without a direction (rows of zeros) are not in the map")
        found: list[tuple[int, int, int, float]] = []
        if self.around is not None:
            named = check_features(self.around, len(rows), f"studies.{self.name}.around")
            if nowhere := [feature for feature in named if not directions[feature]]:
                raise UserError(
                    f"studies.{self.name}.around={named}: feature {nowhere[0]} has no direction; leave it out"
                )
            for feature in named:
                others = there.copy()
                others[feature] = False
                near, cosines = nearest_to(rows[feature], rows, self.nearest, others)
                found.append((feature, 0, feature, 1.0))
                found += [
                    (feature, rank, int(i), float(c)) for rank, (i, c) in enumerate(zip(near, cosines, strict=True), 1)
                ]
            there = np.isin(np.arange(len(rows)), [feature for _, _, feature, _ in found])
        places = np.full((len(rows), 2), np.nan, np.float32)
        places[there] = umap_layout(
            rows[np.flatnonzero(there)],
            n_neighbors=self.n_neighbors,
            min_dist=self.min_dist,
            seed=self.seed,
            show_progress=self.show_progress,
        )
        if there.sum() < FEWEST_POINTS:
            notes.append(f"{int(there.sum())} features to place: a map needs at least {FEWEST_POINTS}")
        tables = {}
        if found:
            cells: list[tuple[Cell, ...]] = [(*row, *(float(v) for v in places[row[2]])) for row in found]
            tables["neighbours"] = Table(COLUMNS, tuple(cells), "Features by cosine with those asked about")
        return Result({}, tables, tuple(notes), arrays={"map": places})

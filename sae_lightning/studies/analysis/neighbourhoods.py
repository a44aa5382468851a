"""Where do the features of several SAEs lie among each other?"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, MinLen
from numpy.typing import NDArray
from pydantic import NonNegativeInt
from torch import Tensor

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
from sae_lightning.studies.study import Cell, ComparativeStudy, Result, Table
from sae_lightning.studies.subject import Subject, other_model

COLUMNS = ("around", "sae", "rank", "feature", "cosine", "x", "y")


class NeighbourhoodsStudy(ComparativeStudy):
    """``map/NAME`` [F of NAME, 2]: places in one plane for the features of several SAEs of one width d_out.

    UMAP of all decoder directions together (cosine distance; see ``neighbourhood``), so that a feature of a wide SAE
    lies near the features of a narrow one that it descends from.

    centre: directions are taken from the mean of their own SAE's directions, of length 1 again: what all features of an
        SAE have in common would else tell the SAEs apart, and not the features. false: as they are.
    around: features of the first SAE: place the ``nearest`` directions of *every* SAE to each of these alone, in place
        of all features. The table ``neighbours`` then lists them; cosines are of the directions placed.
    dead, n_neighbors, min_dist, seed: see ``neighbourhood``.

    Features without a direction or that never fire in the SAE's store have NaN. SAEs that write activations of another
    width than the first are left out and noted. Widths of 4,608 and 32,000 together take less than a minute on 2 cores.

    Source: Templeton et al. 2024, "Scaling Monosemanticity", feature neighbourhoods at 1M, 4M and 34M features.

    Raises UserError where umap-learn is not installed, and for features that the first SAE does not have.
    """

    name: ClassVar[str] = "neighbourhoods"
    reads_store: ClassVar[bool] = True

    def __init__(
        self,
        centre: bool = True,
        around: Annotated[Sequence[NonNegativeInt], MinLen(1)] | None = None,
        nearest: Annotated[int, Ge(1)] = 100,
        dead: bool = False,
        n_neighbors: Annotated[int, Ge(2), Le(1000)] = 15,
        min_dist: Annotated[float, Gt(0), Le(1)] = 0.1,
        seed: int = 0,
        show_progress: bool = True,
    ) -> None:
        self.centre, self.around, self.nearest, self.dead = centre, around and tuple(around), nearest, dead
        self.n_neighbors, self.min_dist = n_neighbors, min_dist
        self.seed, self.show_progress = seed, show_progress

    def reason_all(self, subjects: Mapping[str, Subject]) -> str | None:
        if reason := super().reason_all(subjects):
            return reason
        widths = [subject.sae.d_out for subject in subjects.values()]
        if widths.count(widths[0]) < 2:
            return f"needs two SAEs of one site; these write activations of widths {', '.join(map(str, widths))}"
        return without_umap()

    def run_all(self, subjects: Mapping[str, Subject], results: Mapping[str, Mapping[str, Result]]) -> Result:
        if reason := self.reason_all(subjects):
            raise UserError(f"{self.name}: {reason}")
        first = next(iter(subjects.values()))
        d_out = first.sae.d_out
        together, notes = {}, []
        for name, subject in subjects.items():
            if other_model(first, subject):
                notes.append(f"{name} reads another language model: left out")
            elif subject.sae.d_out == d_out:
                together[name] = subject
            else:
                notes.append(f"{name} writes activations of width {subject.sae.d_out}, not {d_out}: left out")
        rows = {name: unit_directions(subject.sae.W_dec, self.centre) for name, subject in together.items()}
        there: dict[str, NDArray[np.bool_]] = {}
        for name, subject in together.items():
            alive, why = placed(subject, self.dead)
            there[name] = alive & (rows[name] != 0).any(1).numpy()
            notes += [f"{name}: {note}" for note in why]
        found: list[tuple[int, str, int, int, float]] = []
        if self.around is not None:
            found = self._around(rows, there)
            for name, alive in there.items():
                alive[:] = np.isin(np.arange(len(alive)), [feature for _, of, _, feature, _ in found if of == name])
        chosen = {name: np.flatnonzero(alive) for name, alive in there.items()}
        if sum(map(len, chosen.values())) < FEWEST_POINTS:
            notes.append(f"fewer than {FEWEST_POINTS} features to place: no map")
        layout = umap_layout(
            torch.cat([rows[name][numbers] for name, numbers in chosen.items()]),
            n_neighbors=self.n_neighbors,
            min_dist=self.min_dist,
            seed=self.seed,
            show_progress=self.show_progress,
        )
        maps, first = {}, 0
        for name, numbers in chosen.items():
            maps[name] = np.full((len(rows[name]), 2), np.nan, np.float32)
            maps[name][numbers] = layout[first : first + len(numbers)]
            first += len(numbers)
        tables = {}
        if found:
            cells: list[tuple[Cell, ...]] = [(*row, *(float(v) for v in maps[row[1]][row[3]])) for row in found]
            caption = f"Features of every SAE by cosine with those of {next(iter(together))} asked about"
            tables["neighbours"] = Table(COLUMNS, tuple(cells), caption)
        return Result({}, tables, tuple(notes), arrays={f"map/{name}": places for name, places in maps.items()})

    def _around(
        self, rows: Mapping[str, Tensor], there: Mapping[str, NDArray[np.bool_]]
    ) -> list[tuple[int, str, int, int, float]]:
        """Return (feature asked about, SAE, rank, feature, cosine) of what is near each, itself as rank 0."""
        first = next(iter(rows))
        assert self.around is not None
        named = check_features(self.around, len(rows[first]), f"studies.{self.name}.around")
        found = []
        for feature in named:
            direction = rows[first][feature]
            if not direction.any():
                raise UserError(f"studies.{self.name}.around={named}: feature {feature} has no direction; leave it out")
            found.append((feature, first, 0, feature, 1.0))
            for name, of in rows.items():
                others = there[name].copy()
                if name == first:
                    others[feature] = False
                near, cosines = nearest_to(direction, of, self.nearest, others)
                pairs = enumerate(zip(near, cosines, strict=True), start=1)
                found += [(feature, name, rank, int(i), float(c)) for rank, (i, c) in pairs]
        return found

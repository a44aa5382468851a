"""Which features point in nearly the same direction?"""

import shutil
from pathlib import Path
from typing import Annotated, BinaryIO, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.core import UserError, atomic_path
from sae_lightning.studies.directions import written
from sae_lightning.studies.over_features import mean_estimate
from sae_lightning.studies.progress import track
from sae_lightning.studies.ranking import largest
from sae_lightning.studies.study import Result, Study, Table
from sae_lightning.studies.subject import Subject
from sae_lightning.studies.windows import DRAWS

Measure = Literal["cosine", "dot", "euclidean"]

# Numbers in one block [rows, d_sae] of pairs: 128 MB in float64.
_PAIRS = 1 << 24
# Squared distances below this share of the squared norms are none.
_ROUNDING = 1e-13
_TWINS = 0.9


class SimilarityStudy(Study):
    """Nearest neighbours of each feature among all others, by what they write: rows of the decoder d_i, d_j.

    measure: ``cosine`` is ``d_i . d_j / (||d_i|| ||d_j||)``, ``dot`` is ``d_i . d_j``, ``euclidean`` is
    ``||d_i - d_j||``, of which the smallest is nearest. Signed: a feature and its opposite are far apart. Of several
    sites the rows are those of all sites side by side. A row of zeros has no direction: under ``cosine`` it is nobody's
    neighbour and has none; among all pairs its cosines are 0. A feature without any other has none either.

    Arrays: ``neighbour`` [d_sae, n] int32, nearest first, of equal ones the lower number; -1 where there are fewer than
    n others. ``neighbour_MEASURE`` [d_sae, n] float32, NaN there. Products are float64, results rounded to float32.

    Estimates, over features with a neighbour, with a bootstrap over features: ``nearest_MEASURE``, the mean of the
    nearest neighbour's; under ``cosine`` also ``twin_share``, the share whose nearest neighbour has a cosine above 0.9.
    The table has the ``shown`` nearest pairs, each once.

    matrix: file that all pairs are written to as well, [d_sae, d_sae] float32 .npy, row by row, to be opened with
    ``numpy.load(path, mmap_mode="r")``; 4,608 features take 85 MB, 32,768 take 4.3 GB. Memory is bounded: pairs go by
    in blocks of rows. Raises UserError where there is no room for it.
    """

    name: ClassVar[str] = "similarity"
    reads_store: ClassVar[bool] = True

    def __init__(
        self,
        measure: Measure = "cosine",
        n: Annotated[int, Ge(1)] = 10,
        shown: Annotated[int, Ge(1)] = 50,
        matrix: str | None = None,
        seed: int = 0,
        draws: Annotated[int, Ge(100)] = DRAWS,
        show_progress: bool = True,
    ) -> None:
        self.measure: Measure = measure
        self.n, self.shown, self.seed, self.draws = n, shown, seed, draws
        self.matrix = None if matrix is None else Path(matrix).expanduser()
        self.show_progress = show_progress
        if self.matrix is not None and self.matrix.suffix != ".npy":
            raise UserError(f"matrix={matrix}: must end in .npy; it is written as a NumPy array")

    def run(self, subject: Subject) -> Result:
        pairs = _Pairs(written(subject.sae), self.measure)
        if self.matrix is None:
            neighbours, values = self._neighbours(pairs, None)
        else:
            neighbours, values = self._with_matrix(pairs, self.matrix)
        nearest = values[neighbours[:, 0] >= 0, 0].astype(np.float64)
        found = {f"nearest_{self.measure}": nearest}
        if self.measure == "cosine":
            found["twin_share"] = (nearest > _TWINS).astype(np.float64)
        estimates = {name: mean_estimate(each, self.name, self.seed, self.draws) for name, each in found.items()}
        notes = _notes(len(values), int(pairs.empty.sum()), len(values) - len(nearest))
        arrays = {"neighbour": neighbours, f"neighbour_{self.measure}": values}
        return Result(estimates, {"nearest": self._table(neighbours, values)}, notes, arrays=arrays)

    def _with_matrix(self, pairs: "_Pairs", path: Path) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        size = 4 * len(pairs) ** 2
        path.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(path.parent).free) < size:
            raise UserError(
                f"matrix={path}: takes {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; choose another place, or "
                "leave it out: the nearest neighbours are found without it"
            )
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            shape = {"descr": "<f4", "fortran_order": False, "shape": (len(pairs), len(pairs))}
            np.lib.format.write_array_header_1_0(file, shape)
            found = self._neighbours(pairs, file)
        return found

    def _neighbours(self, pairs: "_Pairs", file: BinaryIO | None) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        n = min(self.n, len(pairs))
        neighbours = np.full((len(pairs), self.n), -1, np.int32)
        values = np.full((len(pairs), self.n), np.nan, np.float32)
        step = max(1, _PAIRS // len(pairs))
        blocks = range(0, len(pairs), step)
        for first in track(blocks, len(blocks), self.name, self.show_progress):
            block = pairs.block(first, first + step)
            if file is not None:
                file.write(block.cpu().numpy().astype("<f4", copy=False).tobytes())
            at = slice(first, first + len(block)), slice(0, n)
            columns, near = largest(pairs.nearness(block, first), n)
            there = (near > -torch.inf).cpu().numpy()
            neighbours[at] = np.where(there, columns.cpu().numpy(), -1)
            values[at] = np.where(there, block.gather(1, columns).cpu().numpy(), np.nan)
        return neighbours, values

    def _table(self, neighbours: NDArray[np.int32], values: NDArray[np.float32]) -> Table:
        feature, place = np.nonzero(neighbours >= 0)
        other, value = neighbours[feature, place], values[feature, place]
        low, high = np.minimum(feature, other), np.maximum(feature, other)
        _, first = np.unique(low.astype(np.int64) * len(neighbours) + high, return_index=True)
        key = value[first] if self.measure == "euclidean" else -value[first]
        chosen = first[np.argsort(key, kind="stable")[: self.shown]]
        rows = tuple((int(low[i]), int(high[i]), float(value[i])) for i in chosen)
        caption = f"The nearest pairs of {len(neighbours):,} features"
        return Table(("feature", "neighbour", self.measure), rows, caption)


def _notes(n: int, empty: int, left: int) -> tuple[str, ...]:
    """Say why ``left`` of n features have no neighbour. empty: those without a direction."""
    notes = []
    if empty:
        what = "1 feature writes nothing and has" if empty == 1 else f"{empty:,} features write nothing and have"
        notes.append(f"{what} no neighbour")
    if left > empty:
        # One at most: of two, each has the other.
        other = "no other writes anything" if n > 1 else "there is no other"
        notes.append(f"{left - empty} feature has no neighbour: {other}")
    return tuple(notes)


class _Pairs:
    """All pairs of rows under a measure, a block of rows at a time."""

    def __init__(self, rows: Float[Tensor, "d_sae d_out"], measure: Measure) -> None:
        self.measure = measure
        norms = rows.norm(dim=1)
        self.empty = norms == 0 if measure == "cosine" else torch.zeros_like(norms, dtype=torch.bool)
        self.rows = rows / torch.where(norms == 0, 1.0, norms)[:, None] if measure == "cosine" else rows
        self.squares = self.rows.square().sum(1)

    def __len__(self) -> int:
        return len(self.rows)

    def block(self, first: int, last: int) -> Float[Tensor, "rows d_sae"]:
        """Return the measure of rows ``first`` to ``last - 1`` and every row, float32."""
        products = self.rows[first:last] @ self.rows.T
        if self.measure == "euclidean":
            sizes = self.squares[first:last, None] + self.squares
            products = sizes - products.mul_(2)
            # What is left of equal rows is rounding.
            products = torch.where(products > _ROUNDING * sizes, products, 0.0).sqrt_()
        return products.float()

    def nearness(self, block: Float[Tensor, "rows d_sae"], first: int) -> Float[Tensor, "rows d_sae"]:
        """Return a number that is the larger the nearer, -inf for who is no neighbour."""
        near = -block if self.measure == "euclidean" else block.clone()
        near[:, self.empty] = -torch.inf
        near[self.empty[first : first + len(block)]] = -torch.inf
        own = torch.arange(len(block), device=block.device)
        near[own, first + own] = -torch.inf
        return near

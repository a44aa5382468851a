"""Which features write in nearly the same direction as this one?"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.studies.directions import written
from sae_lightning.studies.ranking import largest
from sae_lightning.studies.study import Result, Study, Table
from sae_lightning.studies.subject import Subject

COLUMNS = ("sae", "feature", "score")
_CHUNK = 1 << 15


class GeometricSearch(Study):
    """Features whose decoder direction has the largest cosine with a feature's, or with any vector.

    ``score = <d_j, v> / (||d_j|| ||v||)``, in [-1, 1], in float64; features with a row of zeros have none. v is the
    decoder row of feature ``near`` of the subject's SAE, or ``near`` itself, [d_out]; of several sites rows lie side by
    side. A feature's nearest neighbour by chance: of N random directions in d dimensions the nearest has a cosine of
    about sqrt(2 ln N / d), which the notes say.

    near: a feature, which is then left out of its own SAE's rows, or a vector. others: more SAEs, by name, that write
    the same site of the same language model; whoever gives them sees to that. name_of: of the subject's SAE in the
    table. n: rows of each SAE.
    Raises UserError for a feature out of range, a vector of another width, one of length 0 and one with NaN.
    """

    name: ClassVar[str] = "search_geometric"

    def __init__(
        self,
        near: int | NDArray,
        others: Mapping[str, SparseAutoencoder] | None = None,
        name_of: str = "this",
        n: Annotated[int, Ge(1)] = 20,
    ) -> None:
        self.near, self.others, self.name_of, self.n = near, dict(others or {}), name_of, n
        if name_of in self.others:
            raise UserError(f"SAE {name_of!r}: there are two of this name; give each a name of its own")

    def run(self, subject: Subject) -> Result:
        own = self.near if isinstance(self.near, int | np.integer) else None
        vector = self._vector(subject.sae)
        rows, notes = [], []
        for name, sae in {self.name_of: subject.sae, **self.others}.items():
            if sae.d_out != len(vector):
                raise UserError(f"SAE {name!r}: writes {sae.d_out} numbers, not {len(vector)}; leave it out")
            cosines = _cosines(sae, vector.to(sae.W_dec.device))
            if own is not None and sae is subject.sae:
                cosines[int(own)] = -math.inf
            index, values = largest(cosines[None], self.n)
            found = zip(index[0].tolist(), values[0].tolist(), strict=True)
            rows += [(name, feature, value) for feature, value in found if math.isfinite(value)]
            chance = math.sqrt(2 * math.log(max(2, sae.d_sae)) / sae.d_out)
            notes.append(f"{name}: the nearest of {sae.d_sae:,} random directions has a cosine of about {chance:.2g}")
        if not rows:
            notes.append("no other feature has a direction")
        said = "a vector" if own is None else f"feature {own}"
        return Result({}, {"features": Table(COLUMNS, tuple(rows), f"Neighbours of {said} by cosine")}, tuple(notes))

    def _vector(self, sae: SparseAutoencoder) -> Float[Tensor, "d_out"]:
        if isinstance(self.near, int | np.integer) and not isinstance(self.near, bool):
            if not 0 <= self.near < sae.d_sae:
                raise UserError(f"near={self.near}: this SAE has features 0 to {sae.d_sae - 1}")
            vector = written(sae)[int(self.near)].cpu()
            if not vector.any():
                raise UserError(f"near={self.near}: the feature writes nothing, so that it has no neighbours")
            return vector
        if not isinstance(self.near, np.ndarray) or self.near.dtype.kind not in "fiu":
            raise UserError("near: must be a feature's number or a vector of numbers; give one of both")
        if self.near.shape != (sae.d_out,):
            raise UserError(f"near: a vector of shape {self.near.shape}, but this SAE writes [{sae.d_out}]")
        if not np.isfinite(self.near).all() or not self.near.any():
            raise UserError("near: a vector of zeros, or with NaN or infinity, has no direction; give another")
        return torch.from_numpy(self.near.astype(np.float64))


def read_vector(path: str | Path) -> Float[NDArray, "d"]:
    """Read a vector from a .npy file, without pickles. Raises UserError for what is no such file."""
    try:
        value = np.load(Path(path).expanduser(), allow_pickle=False)
    except OSError as error:
        raise UserError(f"near={path}: cannot be read ({error.strerror or 'no array'}); give a .npy file") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"near={path}: holds no array ({error}); write one with numpy.save") from None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise UserError(f"near={path}: must hold one array of real numbers; write one with numpy.save")
    return value.reshape(-1) if value.size == max(value.shape, default=0) else value


def _cosines(sae: SparseAutoencoder, vector: Float[Tensor, "d_out"]) -> Float[Tensor, "d_sae"]:
    """Return each feature's cosine with a vector, -inf where a row is 0; a part of the features at a time."""
    unit = vector / vector.norm()
    out = []
    for rows in sae.W_dec.detach().split(_CHUNK):  # its scale under rescale_acts_by_decoder_norm has no say
        rows = rows.double()
        norms = rows.norm(dim=1)
        cosines = (rows @ unit / norms.clamp(min=torch.finfo(torch.float64).tiny)).clamp(-1.0, 1.0)
        out.append(torch.where(norms > 0, cosines, -math.inf))
    return torch.cat(out)

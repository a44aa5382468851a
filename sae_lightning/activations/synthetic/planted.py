"""What every synthetic model is: known directions, known firings, and rows that are their sums."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from sae_lightning.activations.synthetic.firing import Firings
from sae_lightning.core import Features, derive_seed

BLOCK_ROWS = 1024
#: Evaluation reads this stream; training has one of its own, whatever its seed.
HELDOUT = "heldout"


class PlantedModel(ABC):
    """Rows ``x_t = sum_i a_ti d_i + bias`` with true features a (sparse, non-negative) and unit directions d.

    directions [num_features, hidden_dim], bias [hidden_dim], firing_probabilities [num_features] (of a feature with a
    parent: given that the parent fires). Rows come in blocks of 1024: ``block(number)`` is a pure function of the
    model, the stream's name, its seed and the number, so that a stream has any length and no place in it costs more
    than another. float32, on the CPU.
    """

    kind: ClassVar[str]
    block_rows: ClassVar[int] = BLOCK_ROWS
    #: Widths of the sites that lie side by side in a row, by name; None where a row is one site without a name.
    site_widths: dict[str, int] | None = None
    directions: Float[Tensor, "num_features hidden_dim"]
    bias: Float[Tensor, "hidden_dim"]
    firing_probabilities: Float[Tensor, "num_features"]

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Return what ``planted_model`` rebuilds this model from: plain values for JSON, with ``kind``."""

    @abstractmethod
    def _draw(self, seed: int) -> Firings:
        """Return a block's firings in order of row."""

    @property
    def num_features(self) -> int:
        return self.directions.shape[0]

    @property
    def hidden_dim(self) -> int:
        return self.directions.shape[1]

    def block(
        self, number: int, stream: str = HELDOUT, seed: int = 0
    ) -> tuple[Float[Tensor, "1024 hidden_dim"], Features]:
        """Return one block's rows and its true features (every stored value is above 0)."""
        rows, features, values = (
            torch.from_numpy(part) for part in self._draw(derive_seed(seed, "synthetic", stream, number))
        )
        x = self._sums(rows, features, values)
        known = features < self.num_features
        if not known.all():
            rows, features, values = rows[known], features[known], values[known]
        return x, Features(values, features, _offsets(rows), self.num_features)

    def blocks(
        self, numbers: Sequence[int], stream: str = HELDOUT, seed: int = 0
    ) -> tuple[Float[Tensor, "n hidden_dim"], Features]:
        """Return several blocks after each other."""
        parts = [self.block(int(number), stream, seed) for number in numbers]
        truths = [truth for _, truth in parts]
        counts = torch.cat([truth.offsets.diff() for truth in truths if truth.offsets is not None])
        offsets = functional.pad(counts.cumsum(0), (1, 0))
        indices = torch.cat([truth.indices for truth in truths if truth.indices is not None])
        values = torch.cat([truth.values for truth in truths])
        return torch.cat([x for x, _ in parts]), Features(values, indices, offsets, self.num_features)

    @property
    def _vectors(self) -> Float[Tensor, "n hidden_dim"]:
        """Unit vectors of everything that rows are made of: the true directions, then what belongs to no truth."""
        return self.directions

    def _sums(self, rows: Tensor, features: Tensor, values: Tensor) -> Float[Tensor, "1024 hidden_dim"]:
        sums = functional.embedding_bag(
            features,
            self._vectors,
            _offsets(rows),
            mode="sum",
            per_sample_weights=values,
            include_last_offset=True,
        )
        return sums + self.bias

    @cached_property
    def fingerprint(self) -> str:
        """A name of the model's numbers: the same parameters can give other bits on another machine."""
        digest = hashlib.sha256()
        for tensor in (self.directions, self.bias, self.firing_probabilities):
            digest.update(tensor.contiguous().numpy().tobytes())
        return f"{self.kind}-{digest.hexdigest()[:16]}"


def _offsets(rows: Int[Tensor, "nnz"]) -> Int[Tensor, "1025"]:
    """Return where each row of a block begins among its sorted firings."""
    return functional.pad(torch.bincount(rows, minlength=BLOCK_ROWS).cumsum(0), (1, 0))

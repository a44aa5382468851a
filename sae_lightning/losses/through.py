"""What the language model makes of a reconstruction, beside what it makes of the activations themselves."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class ModelRun:
    """A run of the frozen language model: its next-token logits, and the later activations that a loss compares."""

    logits: Float[Tensor, "b p vocab"]
    later: Mapping[str, Float[Tensor, "b p d"]]


@dataclass(frozen=True)
class Through:
    """Two runs on the same windows, the same arithmetic in both.

    clean:   with the activations as they are; without a gradient.
    spliced: with the reconstruction in their place where ``keep`` is True, the clean activation elsewhere; its gradient
             reaches the reconstruction.
    keep:    positions that count. A masked or padded token counts nowhere.
    """

    clean: ModelRun
    spliced: ModelRun
    keep: Bool[Tensor, "b p"]

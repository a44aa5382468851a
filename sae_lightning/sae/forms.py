"""Small values that pass between the parts of an SAE."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Features

Scheme = Literal["tied", "kaiming", "kaiming_transpose", "datapoint", "zero_decoder"]
BiasInit = Literal["zero", "mean", "geometric_median"]


@dataclass(frozen=True)
class InitDefaults:
    """How an architecture starts unless told otherwise; see sae.init. decoder_norm: length of each decoder row."""

    scheme: Scheme = "tied"
    decoder_norm: float = 0.1
    b_dec: BiasInit = "zero"


class Rows(NamedTuple):
    """Input rows as the encoder multiplies them, and what undoes their layer norm."""

    x: Float[Tensor, "n d_in"]
    centred: Float[Tensor, "n d_in"]
    mean: Float[Tensor, "n 1"] | None
    std: Float[Tensor, "n 1"] | None


class Encoded(NamedTuple):
    """Features, the pre-activations they were chosen from where those exist as a whole, and z at sparse pairs."""

    features: Features
    pre_acts: Float[Tensor, "n d_sae"] | None
    selected: Float[Tensor, "nnz"] | None = None

"""The form of a loss term: an unweighted scalar, and a coefficient that the objective applies once."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Schedule
from sae_lightning.losses.context import StepContext
from sae_lightning.sae import SparseAutoencoder

Reduction = Literal["per_token_sum", "element_mean"]
SparsityReduction = Literal["per_token_sum", "element_mean", "batch_sum"]


class LossTerm(ABC):
    """One summand of the objective: ``coefficient(progress) * compute(ctx)``.

    ``compute`` returns the *unweighted* value, a mean over tokens, so duplicating the batch changes nothing. The
    coefficient belongs to the term but is applied by ``Objective`` alone.

    is_reconstruction:    the term that sparsity coefficients are measured against.
    penalises_sparsity:   the term's coefficient is a lambda, reported as ``lambda_eff``.
    reads_model:          the term needs ``StepContext.through``: runs of the language model.
    reads_pre_acts:       the term has a gradient to all pre-activations, so they had better be made whole.
    """

    name: ClassVar[str]
    is_reconstruction: ClassVar[bool] = False
    penalises_sparsity: ClassVar[bool] = False
    reads_model: ClassVar[bool] = False
    reads_pre_acts: ClassVar[bool] = False
    normalise: str = "none"

    def __init__(self, coefficient: Schedule | float = 1.0) -> None:
        self.coefficient = coefficient if isinstance(coefficient, Schedule) else Schedule(float(coefficient))

    @abstractmethod
    def compute(self, ctx: StepContext) -> Float[Tensor, ""]:
        """Return the unweighted value of this step, differentiable in the SAE's parameters."""

    def check(self, sae: SparseAutoencoder) -> None:  # noqa: B027 - most terms suit every architecture
        """Raise ``UserError`` when the term has no meaning for this SAE. Called once, when a run is built."""

    def per_token_factor(self, batch_size: int, d_out: int, d_sae: int) -> float:
        """Return ``value / (the same sum reduced per token)``: 1 unless the term has another reduction."""
        return 1.0

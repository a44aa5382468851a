"""The objective: every term times its own coefficient, added up once."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.losses.context import StepContext
from sae_lightning.losses.term import LossTerm
from sae_lightning.sae import SparseAutoencoder


class Objective:
    """``sum_t coefficient_t(progress) * term_t(step)``.

    Terms measured through the language model are stated next to a reconstruction that is divided by its variance: where
    it is not, their coefficients are multiplied by what it would be divided by, so that one nat of KL weighs as much
    beside a plain squared error as beside a normalised one.

    ``objective(ctx)`` returns the total and every term's *unweighted* value, detached, by its name in ``terms``.
    A term whose coefficient is 0 at the moment is measured without a gradient and not added, so it cannot carry a NaN
    into the total.
    """

    def __init__(self, terms: Mapping[str, LossTerm]) -> None:
        if not terms:
            raise UserError("objective.terms={}: an objective needs at least one term; add `reconstruction`")
        self.terms = dict(terms)

    def __call__(self, ctx: StepContext) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        total = ctx.out.y_hat.new_zeros(())
        values: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            coefficient = term.coefficient.at(ctx.progress)
            if coefficient and term.reads_model:
                coefficient = coefficient * self._unit(ctx)
            if isinstance(coefficient, float) and coefficient == 0.0:
                with torch.no_grad():
                    values[name] = term.compute(ctx)
                continue
            value = term.compute(ctx)
            total = total + coefficient * value
            values[name] = value.detach()
        return total, values

    @property
    def reads_model(self) -> bool:
        """Whether a term is measured through the language model."""
        return any(term.reads_model for term in self.terms.values())

    def _unit(self, ctx: StepContext) -> Float[Tensor, ""] | float:
        base = next((t for t in self.terms.values() if t.is_reconstruction), None)
        if base is None or base.normalise == "variance":
            return 1.0
        return ctx.target_variance() * base.per_token_factor(ctx.rows, ctx.sae.d_out, ctx.sae.d_sae)

    def check(self, sae: SparseAutoencoder) -> None:
        """Raise ``UserError`` when a term has no meaning for this SAE."""
        self.check_reconstructs()
        for term in self.terms.values():
            term.check(sae)

    def check_reconstructs(self) -> None:
        """Raise ``UserError`` when no term reconstructs: nothing would hold the features to the data."""
        if not any(term.is_reconstruction for term in self.terms.values()):
            raise UserError(
                f"losses={list(self.terms)}: none of them reconstructs; keep losses.reconstruction (or matryoshka)"
            )

    def coefficients(self, progress: float) -> dict[str, float]:
        """Return every term's coefficient at ``progress``."""
        return {name: term.coefficient.at(progress) for name, term in self.terms.items()}

    def lambda_eff(
        self,
        name: str,
        batch_size: int,
        d_out: int,
        d_sae: int,
        *,
        progress: float = 1.0,
        variance: float | None = None,
    ) -> float | None:
        """Return the coefficient of term ``name`` as it would read in the per-token convention.

        That is, next to a reconstruction term that is the per-token SSE with weight 1 and a penalty summed over
        features per token. Element-mean MSE makes a coefficient ``d_out`` times stronger than it looks, a batch-summed
        L1 ``batch_size`` times, an element-mean L1 ``d_sae`` times weaker.

        variance: ``Var(y)`` of the data, needed where the reconstruction is divided by it.
        None for a term that penalises no sparsity, and where there is nothing to measure it against.
        """
        term = self.terms[name]
        base = next((t for t in self.terms.values() if t.is_reconstruction), None)
        if not term.penalises_sparsity or base is None:
            return None
        weight = base.coefficient.at(progress) * base.per_token_factor(batch_size, d_out, d_sae)
        if base.normalise == "variance":
            if variance is None:
                return None
            weight /= variance
        if weight == 0.0:
            return None
        return term.coefficient.at(progress) * term.per_token_factor(batch_size, d_out, d_sae) / weight

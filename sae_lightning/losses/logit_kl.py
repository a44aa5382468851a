"""KL of next-token distributions: what the reconstruction does to the language model's output."""

from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lightning.core import Schedule
from sae_lightning.losses.context import StepContext
from sae_lightning.losses.term import LossTerm

Direction = Literal["forward", "reverse"]
# Logits whose float32 probabilities are alive at a time: 16 MB of each of the few copies that one chunk needs.
_CHUNK = 1 << 22


class LogitKL(LossTerm):
    """``mean_token KL(softmax(clean / T) || softmax(spliced / T))`` over the tokens that count, in nats a token.

    clean, spliced: the language model's logits with the activations and with the reconstruction at the site. A token
    that is masked or padding counts nowhere; its position keeps the clean activation in both runs.

    direction: ``forward`` is that; ``reverse`` is ``KL(spliced || clean)``, as one of the notes has it.
    temperature: T. Without the T^2 that distillation multiplies by.

    Source: Braun et al. 2024, "Identifying functionally important features with end-to-end sparse dictionary learning".
    Memory: the two runs' logits and one gradient of their size; probabilities are made a chunk of tokens at a time.
    """

    name = "logit_kl"
    reads_model = True

    def __init__(
        self,
        coefficient: Schedule | float = 0.1,
        direction: Direction = "forward",
        temperature: Annotated[float, Gt(0)] = 1.0,
    ) -> None:
        super().__init__(coefficient)
        self.direction: Direction = direction
        self.temperature = temperature

    def compute(self, ctx: StepContext) -> Float[Tensor, ""]:
        assert ctx.through is not None, "logit_kl is measured through the language model"
        clean, spliced = ctx.through.clean.logits, ctx.through.spliced.logits
        return _MeanKL.apply(  # pyright: ignore[reportReturnType] - torch's stub
            spliced, clean.detach(), ctx.through.keep.to(spliced.device), self.temperature, self.direction == "reverse"
        )


class _MeanKL(torch.autograd.Function):
    """The mean over kept positions; its gradient is worked out beside the value, so no probabilities are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        spliced: Float[Tensor, "b p vocab"],
        clean: Float[Tensor, "b p vocab"],
        keep: Bool[Tensor, "b p"],
        temperature: float,
        reverse: bool,
    ) -> Float[Tensor, ""]:
        wide = torch.float64 if spliced.dtype == torch.float64 else torch.float32
        flat, reference = spliced.flatten(0, 1), clean.flatten(0, 1)
        numbers = keep.flatten().nonzero()[:, 0]
        gradient = torch.zeros_like(flat) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float64, device=spliced.device)
        for part in numbers.split(max(1, _CHUNK // flat.shape[1])):
            s, c = (value[part].to(wide).div_(temperature) for value in (flat, reference))
            p, q = (s, c) if reverse else (c, s)
            p_norm, q_norm = p.logsumexp(-1, keepdim=True), q.logsumexp(-1, keepdim=True)
            p_share, q_share = (p - p_norm).exp_(), (q - q_norm).exp_()
            log_ratio = (p - q).add_(q_norm - p_norm)
            # A probability of 0 has no say: 0 * -inf would be no number.
            weighed = torch.where(p_share > 0, p_share * log_ratio, 0.0)
            kl = weighed.sum(-1)
            total += kl.sum(dtype=torch.float64)
            if gradient is not None:
                slope = weighed - p_share * kl[:, None] if reverse else q_share - p_share
                gradient[part] = slope.div_(temperature * len(numbers)).to(gradient.dtype)
        ctx.shape = spliced.shape
        ctx.save_for_backward(gradient)
        return (total / max(1, len(numbers))).to(wide)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (own,) = ctx.saved_tensors
        return (own * gradients[0].to(own.dtype)).view(ctx.shape), None, None, None, None

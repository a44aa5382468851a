"""Learning rates: the automatic one, and its course over training."""

import math
from collections.abc import Callable, Sequence

import torch
from torch.optim.lr_scheduler import LambdaLR

#: Steps that the published learning rates were tuned for; shorter runs take a larger one.
REFERENCE_STEPS = 30_000
#: No automatic learning rate goes above this: larger ones killed features in every trial.
MAX_AUTO_LR = 3e-3


def auto_learning_rate(
    base_lr: float, d_sae: int, total_steps: int, *, scale_with_d_sae: bool = True, short_run_boost: bool = True
) -> float:
    """Return ``base_lr * sqrt(2^14 / d_sae) * max(1, sqrt(30,000 / total_steps))``, at most 3e-3.

    The first factor is Gao et al. 2024 (2e-4 / sqrt(d_sae / 2^14)); the second raises the rate for runs far
    shorter than the ones that those papers trained: Adam moves a weight by about lr a step, so a run of a hundred
    steps at a rate tuned for tens of thousands ends before the weights have got anywhere.
    """
    lr = base_lr
    if scale_with_d_sae:
        lr *= math.sqrt(2**14 / d_sae)
    if short_run_boost:
        lr *= max(1.0, math.sqrt(REFERENCE_STEPS / max(1, total_steps)))
    return lr if lr == base_lr else min(lr, max(MAX_AUTO_LR, base_lr))


def learning_rate_factor(step: int, total_steps: int, warmup: float, decay: float, final: float) -> float:
    """Return the factor on the learning rate at ``step``: linear warm-up, 1, linear decay to ``final``.

    ``warmup`` and ``decay`` are shares of ``total_steps``. The first step already moves: (step + 1) / warm-up steps.
    """
    warm_steps = warmup * total_steps
    if step < warm_steps:
        return min(1.0, (step + 1) / warm_steps)
    left = (total_steps - step) / (decay * total_steps) if decay else 1.0
    return final + (1 - final) * min(1.0, max(0.0, left))


def schedule(
    optimizer: torch.optim.Optimizer, total_steps: int, courses: Sequence[tuple[float, float, float]]
) -> LambdaLR:
    """Return the scheduler that gives each parameter group its own course (warmup, decay, final) at every step."""

    def factor(course: tuple[float, float, float]) -> Callable[[int], float]:
        return lambda step: learning_rate_factor(step, total_steps, *course)

    return LambdaLR(optimizer, [factor(course) for course in courses])

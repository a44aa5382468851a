"""Adam for SAEs: projection, clipping, the update and the renormalisation in one walk over each weight."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sae_lightning.core import ALONE, Ranks
from sae_lightning.sae import remove_parallel_gradient, renormalise
from sae_lightning.sae.kernels import triton
from sae_lightning.sae.kernels.backend import use_triton


class FusedAdam(torch.optim.Optimizer):
    """One step of each parameter group is, in this order:

    1. projection:       ``g_i <- g_i - (g_i . d_i) d_i / ||d_i||^2`` for the rows d_i of the group's decoder
    2. norm:             ``s = ||all gradients of the group||``, kept in ``grad_norms``
    3. clipping, Adam:   ``g <- g min(1, clip / (s + 1e-6))``, ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2``,
                         ``w <- w - lr m_hat / (sqrt(v_hat) + eps)`` with m_hat, v_hat divided by ``1 - b^t``
    4. renormalisation:  ``d_i <- d_i / ||d_i||``

    The same numbers as the four done one after the other by ``torch.nn.utils.clip_grad_norm_``, ``torch.optim.Adam``
    and ``sae.geometry``, up to rounding. The clip factor goes into Adam's kernel and stays on the device: nothing
    waits for it, and gradients are not written a second time by a pass of their own. On a GPU with Triton the whole
    step is three passes over each weight (``sae.kernels.triton.adam_``).

    A group has ``params, lr, betas, eps, clip`` (None: no clipping) and ``decoder``: which of its params, by number,
    has rows to be kept at unit norm (None: none). ``project`` and ``renormalise`` say whether 1 and 4 are done to it.
    Parameters without a gradient are left alone, their moments too.

    ranks: processes that hold different parts of the params; of those that are numbered in the group's ``shared``, all
    hold the same. The norm is then that of all gradients together, and a step is a collective.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        clip: float | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "clip": clip,
            "decoder": None,
            "project": False,
            "renormalise": False,
            "shared": [],
        }
        super().__init__(groups, defaults)
        self.ranks = ranks
        #: By group: the norm of its gradients in the last step, after projection and before clipping.
        self.grad_norms: list[Tensor | None] = [None] * len(self.param_groups)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]  # torch overloads it
        """Do one step of every group."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            self._step(number, group)
        return loss

    def _step(self, number: int, group: dict[str, Any]) -> None:
        params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        decoder = None if group["decoder"] is None else group["params"][group["decoder"]]
        grads = [p.grad for p in params if p.grad is not None]
        states = [self._state(p) for p in params]
        steps = [state["step"] for state in states]
        for step in steps:
            step += 1
        if use_triton(*params) and self.ranks.alone:
            self.grad_norms[number] = triton.adam_(
                params,
                grads,
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                steps,
                lr=group["lr"],
                betas=group["betas"],
                eps=group["eps"],
                clip=group["clip"],
                decoder=next((i for i, p in enumerate(params) if p is decoder), None),
                project=group["project"],
                renormalise=group["renormalise"],
            )
            return
        if decoder is not None and group["project"]:
            remove_parallel_gradient(decoder)
        norm = self._norm(params, grads, {id(group["params"][shared]) for shared in group.get("shared", ())})
        self.grad_norms[number] = norm
        # Adam's kernel divides by its scale.
        scale = None if group["clip"] is None else ((norm + 1e-6) / group["clip"]).clamp(min=1.0).float()
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]  # torch.optim.Adam(fused=True) calls it so
            [_flat(p) for p in params],
            [_like(g, p) for g, p in zip(grads, params, strict=True)],
            [_flat(state["exp_avg"]) for state in states],
            [_flat(state["exp_avg_sq"]) for state in states],
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=scale,
            found_inf=None,
        )
        if decoder is not None and group["renormalise"] and decoder.grad is not None:
            renormalise(decoder)

    def _norm(self, params: list[Tensor], grads: list[Tensor], shared: set[int]) -> Tensor:
        """Return the norm of all gradients, of which other ranks have other parts but for those ``shared`` by all."""
        norms = [torch.linalg.vector_norm(g) for g in grads]
        if self.ranks.alone:
            return torch.linalg.vector_norm(torch.stack(norms))
        square = norms[0].new_zeros(2, dtype=torch.float64)
        for parameter, norm in zip(params, norms, strict=True):
            square[int(id(parameter) in shared)] += norm.double().square()
        return (self.ranks.sum(square[0]) + square[1]).sqrt().to(norms[0].dtype)

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if state and state["exp_avg"].stride() != parameter.stride():
            # Of a checkpoint, or of a parameter, whose memory lay in another order.
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(state[name])
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


def _flat(value: Tensor) -> Tensor:
    """Return a view whose memory runs in order: a matrix that lies by column is turned."""
    return value.t() if value.ndim == 2 and not value.is_contiguous() and value.t().is_contiguous() else value


def _like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Return a gradient with its memory in the parameter's order, as ``_flat`` gives that."""
    turned = _flat(parameter) is not parameter
    return (gradient.t() if turned else gradient).contiguous()

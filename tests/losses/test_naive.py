"""Every loss and the gradients of all parameters equal SCIENCE's formula, computed densely in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_lightning.core import ActivationBatch, torch_generator
from sae_lightning.losses import (
    L0,
    L1,
    AuxK,
    GatedAux,
    GatedL1,
    LossTerm,
    Matryoshka,
    MultiTopK,
    PreAct,
    Reconstruction,
    StepContext,
    Tanh,
)
from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.batch_topk import BatchTopKSAE
from sae_lightning.sae.gated import GatedSAE
from sae_lightning.sae.jumprelu import JumpReLUSAE
from sae_lightning.sae.matryoshka import MatryoshkaSAE
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.sae.topk import TopKSAE

N, D, F, K, BANDWIDTH = 24, 10, 48, 4, 0.5
GROUPS = (0.25, 0.25)

ARCHITECTURES: dict[str, tuple[type[SparseAutoencoder], dict[str, Any]]] = {
    "standard": (StandardSAE, {}),
    "leaky": (StandardSAE, {"negative_slope": 0.1}),
    "topk": (TopKSAE, {"k": K}),
    "abs_topk": (TopKSAE, {"k": K, "selection": "abs_topk"}),
    "group_max": (TopKSAE, {"k": K, "selection": "group_max"}),
    "batch_topk": (BatchTopKSAE, {"k": K}),
    "matryoshka": (MatryoshkaSAE, {"k": K, "groups": GROUPS}),
    "jumprelu": (JumpReLUSAE, {"bandwidth": BANDWIDTH}),
    "gated": (GatedSAE, {}),
}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rescaled": {"rescale_acts_by_decoder_norm": True},
    "transcoder": {"d_out": 7, "skip": True},
}


def make_sae(architecture: str, shape: str) -> SparseAutoencoder:
    cls, options = ARCHITECTURES[architecture]
    sae = cls(D, F, **options, **SHAPES[shape])
    g = torch_generator(0, "tests", architecture, shape)
    for name, parameter in sae.named_parameters():
        noise = torch.randn(parameter.shape, generator=g)
        parameter.data = noise * 0.3 - 1.2 if name == "log_theta" else noise * 0.5
    return sae.double().train()


def make_batch(sae: SparseAutoencoder) -> ActivationBatch:
    g = torch_generator(1, "tests", "batch")
    x = torch.randn(N, D, generator=g, dtype=torch.float64) + 0.5
    y = x if sae.d_out == D else torch.randn(N, sae.d_out, generator=g, dtype=torch.float64)
    return ActivationBatch(x=x, y=y, token_index=torch.arange(N))


def dead_features() -> Tensor:
    return torch.rand(F, generator=torch_generator(2, "tests", "dead")) < 0.4


def context(sae: SparseAutoencoder, batch: ActivationBatch, progress: float = 0.5) -> StepContext:
    return StepContext(batch=batch, out=sae(batch.x), sae=sae, dead=dead_features(), progress=progress)


@dataclass
class Naive:
    """The forward pass from the formulas of SCIENCE section 2: everything dense, gradients by autograd."""

    p: dict[str, Tensor]
    kind: str
    x: Tensor
    y: Tensor
    rescaled: bool
    subtract: bool

    @property
    def norms(self) -> Tensor:
        return self.p["W_dec"].square().sum(1).sqrt()

    @property
    def centred(self) -> Tensor:
        return self.x - self.p["b_dec"] if self.subtract else self.x

    @property
    def z(self) -> Tensor:
        z = self.centred @ self.p["W_enc"] + self.p["b_enc"]
        return z * self.norms if self.rescaled else z

    @property
    def theta(self) -> Tensor:
        return self.p["log_theta"].exp()

    def kept(self, z: Tensor, k: int) -> Tensor:
        """0/1 for every pair, from a full sort."""
        score = z.abs() if self.kind == "abs_topk" else z
        keep = torch.zeros_like(z)
        if self.kind in ("batch_topk", "matryoshka"):
            keep.view(-1)[score.reshape(-1).argsort(descending=True)[: k * len(z)]] = 1.0
        elif self.kind == "group_max":
            for group in range(k):
                part = slice(group * F // k, (group + 1) * F // k)
                keep[torch.arange(len(z)), part.start + score[:, part].argmax(1)] = 1.0
        else:
            keep.scatter_(1, score.argsort(dim=1, descending=True)[:, :k], 1.0)
        return keep

    def features(self, k: int = K) -> Tensor:
        z = self.z
        match self.kind:
            case "standard":
                return z.clamp(min=0)
            case "leaky":
                return torch.where(z > 0, z, 0.1 * z)
            case "jumprelu":
                slope = -(self.theta / BANDWIDTH).detach() * self.near
                return z * (z > self.theta) + slope * (self.theta - self.theta.detach())
            case "gated":
                h = self.centred @ self.p["W_enc"]
                magnitude = h * self.p["r_mag"].exp() + self.p["b_mag"]
                return (z > 0) * magnitude.clamp(min=0) * (self.norms if self.rescaled else 1.0)
            case "abs_topk":
                return z * self.kept(z, k)
        return z.clamp(min=0) * self.kept(z, k)

    @property
    def near(self) -> Tensor:
        return ((self.z - self.theta).abs() < BANDWIDTH / 2).double()

    def decode(self, f: Tensor, bias: bool = True) -> Tensor:
        y_hat = (f / self.norms if self.rescaled else f) @ self.p["W_dec"]
        if not bias:
            return y_hat
        y_hat = y_hat + self.p["b_dec"]
        return y_hat + self.centred @ self.p["W_skip"] if "W_skip" in self.p else y_hat

    def sse(self, y_hat: Tensor) -> Tensor:
        return ((y_hat - self.y) ** 2).sum(1).mean()

    @property
    def var(self) -> Tensor:
        return ((self.y - self.y.mean(0)) ** 2).sum(1).mean()

    @property
    def weights(self) -> Tensor:
        return torch.ones(F).double() if self.rescaled else self.norms


def naive_aux_k(m: Naive, k_aux: int, relu: bool = True) -> Tensor:
    e = (m.y - m.decode(m.features())).detach()
    z, dead = m.z, dead_features()
    score = (z.abs() if m.kind == "abs_topk" else z).masked_fill(~dead, -torch.inf)
    keep = torch.zeros_like(z).scatter_(1, score.argsort(dim=1, descending=True)[:, :k_aux], 1.0) * dead
    f = (z if m.kind == "abs_topk" or not relu else z.clamp(min=0)) * keep
    return ((e - m.decode(f, bias=False)) ** 2).sum(1).mean() / ((e - e.mean(0)) ** 2).sum(1).mean()


def naive_matryoshka(m: Naive, weights: tuple[float, ...]) -> Tensor:
    f, total = m.features(), torch.zeros(())
    for weight, size in zip(weights, (F // 4, F // 2, F), strict=True):
        total = total + weight * m.sse(m.decode(f * (torch.arange(F) < size)))
    return total


def naive_l0(m: Naive) -> Tensor:
    h = (m.z > m.theta).double() - m.near / BANDWIDTH * (m.theta - m.theta.detach())
    return h.sum(1).mean()


def naive_gated_aux(m: Naive) -> Tensor:
    pi = m.z / m.norms if m.rescaled else m.z
    y_hat = pi.clamp(min=0) @ m.p["W_dec"].detach() + m.p["b_dec"].detach()
    if "W_skip" in m.p:
        y_hat = y_hat + m.x @ m.p["W_skip"].detach()
    return m.sse(y_hat)


Formula = Callable[[Naive], Tensor]
EVERY = tuple(ARCHITECTURES)
SELECTIVE = ("topk", "abs_topk", "group_max", "batch_topk", "matryoshka")
# name: (term, formula, architectures)
LOSSES: dict[str, tuple[Callable[[], LossTerm], Formula, tuple[str, ...]]] = {
    "reconstruction": (Reconstruction, lambda m: m.sse(m.decode(m.features())), EVERY),
    "reconstruction_element_mean": (
        lambda: Reconstruction(reduction="element_mean"),
        lambda m: ((m.decode(m.features()) - m.y) ** 2).mean(),
        EVERY,
    ),
    "reconstruction_variance": (
        lambda: Reconstruction(normalise="variance"),
        lambda m: m.sse(m.decode(m.features())) / m.var,
        EVERY,
    ),
    "l1": (L1, lambda m: (m.features().abs() * m.weights).sum(1).mean(), EVERY),
    "l1_detached": (
        lambda: L1(decoder_norm="detached"),
        lambda m: (m.features().abs() * m.weights.detach()).sum(1).mean(),
        EVERY,
    ),
    "l1_plain_element_mean": (
        lambda: L1(decoder_norm="plain", reduction="element_mean"),
        lambda m: m.features().abs().mean(),
        EVERY,
    ),
    "l1_batch_sum": (lambda: L1(reduction="batch_sum"), lambda m: (m.features().abs() * m.weights).sum(), EVERY),
    "l1_annealed": (
        lambda: L1(p_start=1.0, p_end=0.2),
        lambda m: ((f := m.features().abs() * m.weights)[f > 0] ** 0.6).sum() / N,
        ("standard", "topk", "batch_topk", "jumprelu"),
    ),
    "tanh": (Tanh, lambda m: torch.tanh(4 * m.features().abs() * m.weights).sum(1).mean(), EVERY),
    "aux_k": (lambda: AuxK(k_aux=5), lambda m: naive_aux_k(m, 5), EVERY),
    "aux_k_signed": (lambda: AuxK(k_aux=5, relu=False), lambda m: naive_aux_k(m, 5, relu=False), ("topk", "standard")),
    "aux_k_default": (AuxK, lambda m: naive_aux_k(m, 4), ("batch_topk",)),
    "aux_k_more_than_dead": (lambda: AuxK(k_aux=40), lambda m: naive_aux_k(m, 40), EVERY),
    "multi_topk": (
        lambda: MultiTopK(multiple=3),
        lambda m: m.sse(m.decode(m.features(3 * K))) / m.var,
        SELECTIVE,
    ),
    "matryoshka": (lambda: Matryoshka(normalise="none"), lambda m: naive_matryoshka(m, (1, 1, 1)), ("matryoshka",)),
    "matryoshka_weighted": (
        lambda: Matryoshka(weights=(0.5, 2.0, 1.0)),
        lambda m: naive_matryoshka(m, (0.5, 2.0, 1.0)) / m.var,
        ("matryoshka",),
    ),
    "l0_step": (L0, naive_l0, ("jumprelu",)),
    "l0_target": (
        lambda: L0(mode="target_l0", target_l0=7.0),
        lambda m: (naive_l0(m) / 7.0 - 1) ** 2,
        ("jumprelu",),
    ),
    "pre_act": (PreAct, lambda m: ((m.theta - m.z).clamp(min=0) * m.weights).sum(1).mean(), ("jumprelu",)),
    "gated_l1": (GatedL1, lambda m: m.z.clamp(min=0).sum(1).mean(), ("gated",)),
    "gated_l1_weighted": (
        lambda: GatedL1(decoder_norm="weighted"),
        lambda m: (m.z.clamp(min=0) * m.weights).sum(1).mean(),
        ("gated",),
    ),
    "gated_aux": (GatedAux, naive_gated_aux, ("gated",)),
}
CASES = [
    (loss, architecture, shape)
    for loss, (_, _, architectures) in LOSSES.items()
    for architecture in architectures
    for shape in SHAPES
    if not (loss == "l1_two_sites" and shape == "transcoder")
]


@pytest.mark.parametrize(("loss", "architecture", "shape"), CASES)
def test_value_and_gradients_equal_the_formula(loss: str, architecture: str, shape: str) -> None:
    make, formula, _ = LOSSES[loss]
    sae, term = make_sae(architecture, shape), make()
    batch = make_batch(sae)
    term.check(sae)
    value = term.compute(context(sae, batch))
    value.backward()

    leaves = {name: p.detach().double().requires_grad_() for name, p in sae.named_parameters()}
    rescaled = sae.rescale_acts_by_decoder_norm
    naive = formula(Naive(leaves, architecture, batch.x, batch.y, rescaled, subtract=sae.subtract_b_dec))
    naive.backward()

    torch.testing.assert_close(value, naive, rtol=1e-9, atol=0)
    for name, parameter in sae.named_parameters():
        got, expected = parameter.grad, leaves[name].grad
        got = torch.zeros_like(parameter) if got is None else got
        expected = torch.zeros_like(leaves[name]) if expected is None else expected
        # log_theta stays float32 by design.
        loose = {"rtol": 1e-5, "atol": 1e-6} if name == "log_theta" else {"rtol": 1e-8, "atol": 1e-10}
        torch.testing.assert_close(got.double(), expected, **loose, msg=lambda m, name=name: f"{name}: {m}")


DUPLICABLE = [case for case in CASES if case[0] != "l1_batch_sum" and case[2] == "plain"]


@pytest.mark.parametrize(("loss", "architecture", "shape"), DUPLICABLE)
def test_duplicating_the_batch_changes_nothing(loss: str, architecture: str, shape: str) -> None:
    sae, term = make_sae(architecture, shape), LOSSES[loss][0]()
    once = make_batch(sae)
    twice = ActivationBatch(*(torch.cat([t, t]) for t in (once.x, once.y, once.token_index)))
    grads = []
    for batch in (once, twice):
        sae.zero_grad(set_to_none=False)
        value = term.compute(context(sae, batch))
        value.backward()
        grads.append([value.detach()] + [torch.zeros(1) if p.grad is None else p.grad for p in sae.parameters()])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one.double(), two.double(), rtol=1e-6, atol=1e-9)

"""The Triton kernels against plain torch, and sparse products against dense ones.

python -m experiments.benchmarks.kernels.bench [--device cuda] [--d 768] [--d-sae 32768 131072] [--k 32]
    [--batch 8192] [--dtype bfloat16 float32] [--rounds 20] [--quick]

Prints one JSON line for each kernel and size: medians of alternate rounds in ms (device time between two events), their
ratio, and the largest difference of the results relative to the largest number. A kernel that cannot run is a line
with ``error``. Then one line a dtype with the smallest F/k at which the sparse decode and its gradients beat dense
products. ``--quick`` takes small sizes; on a CPU it needs TRITON_INTERPRET=1 and says nothing about speed.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.kernels import forms
from experiments.benchmarks.machine import describe
from sae_lightning.sae.kernels import pattern_of
from sae_lightning.sae.kernels import triton as kernels

Call = Callable[[], Any]


class Case:
    """One size: activations, weights and a pattern in which a few features are active on many rows."""

    def __init__(self, n: int, d: int, d_sae: int, k: int, dtype: torch.dtype, device: str) -> None:
        self.n, self.d, self.d_sae, self.k, self.dtype, self.device = n, d, d_sae, k, dtype, device
        generator = torch.Generator(device).manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device)

        # Densities fall off like a power law, as those of trained features do.
        popularity = 1.5 * torch.linspace(0, 1, d_sae, device=device).add(1e-3).pow(-0.3).log()
        self.z = (normal(n, d_sae) + popularity).to(dtype)
        self.x, self.W = normal(n, d).to(dtype), normal(d_sae, d).to(dtype)
        indices = forms.row_top_k(self.z, k)[0].reshape(-1)
        self.pattern = pattern_of(indices, torch.arange(n + 1, device=device) * k, d_sae)
        self.values = normal(n * k).to(dtype)
        assert self.pattern.transpose is not None  # made here and not in the first measurement

    def pairs(self) -> dict[str, tuple[Call, Call]]:
        """Return, by kernel, (torch's form, Triton's)."""
        x, W, v, p, count = self.x, self.W, self.values, self.pattern, self.n * self.k
        flat = self.z.reshape(-1)
        return {
            "row_top_k": (
                lambda: forms.row_top_k(self.z, self.k)[1],
                lambda: kernels.row_top_k(self.z, self.k)[1],
            ),
            "largest_places": (
                # Among equals torch takes any: what is compared is their values.
                lambda: flat[forms.largest_places(flat, count)].sort().values,
                lambda: flat[kernels.largest_places(flat, count)].sort().values,
            ),
            "sum_rows": (
                lambda: forms.sum_rows(W, p.indices, p.offsets, v),
                lambda: kernels.sum_rows(W, p.indices, p.offsets, v),
            ),
            "dot_rows": (lambda: forms.dot_rows(x, W, p), lambda: kernels.dot_rows(x, W, p)),
            "by_feature": (lambda: forms.by_feature(x, v, p), lambda: kernels.by_feature(x, v, p)),
            "by_feature_atomic": (lambda: forms.by_feature_atomic(x, v, p), lambda: kernels.by_feature(x, v, p)),
            "sum_by_feature": (lambda: forms.sum_by_feature(v, p), lambda: kernels.sum_by_feature(v, p)),
            "adam": self._adam(),
        }

    def _adam(self) -> tuple[Call, Call]:
        """Both start from the same weights and do as many steps as they are called."""

        def make() -> tuple[list[Tensor], tuple[list[Tensor], list[Tensor]], list[Tensor]]:
            generator = torch.Generator(self.device).manual_seed(1)
            weights = [torch.randn(self.d_sae, self.d, generator=generator, device=self.device) for _ in range(2)]
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator, device=self.device)
            moments = ([torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights])
            return weights, moments, [torch.zeros((), device=self.device) for _ in weights]

        plain, fused = make(), make()

        def torch_step() -> Tensor:
            for step in plain[2]:
                step += 1
            forms.adam(*plain, decoder=1)
            return plain[0][1]

        def triton_step() -> Tensor:
            weights, moments, steps = fused
            for step in steps:
                step += 1
            grads = [w.grad for w in weights if w.grad is not None]
            kernels.adam_(
                weights, grads, *moments, steps, lr=1e-4, betas=(0.9, 0.999), eps=1e-8, clip=1.0, decoder=1,
                project=True, renormalise=True,
            )  # fmt: skip
            return weights[1]

        return torch_step, triton_step

    def products(self) -> tuple[Call, Call]:
        """Return (dense, sparse): the decoder's product and both of its gradients."""
        dense = torch.zeros(self.n, self.d_sae, dtype=self.dtype, device=self.device)
        dense[self.pattern.rows, self.pattern.indices] = self.values
        x, W, v, p = self.x, self.W, self.values, self.pattern

        def sparse() -> None:
            kernels.sum_rows(W, p.indices, p.offsets, v)
            kernels.dot_rows(x, W, p)
            # Its sort is part of the price.
            kernels.by_feature(x, v, pattern_of(p.indices.clone(), p.offsets, p.d_sae))

        return lambda: (dense @ W, x @ W.t(), dense.t() @ x), sparse


def milliseconds(call: Call, device: str) -> float:
    """Return how long one call takes, on the device."""
    if not device.startswith("cuda"):
        begin = time.perf_counter()
        call()
        return (time.perf_counter() - begin) * 1e3
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after)


def compare(first: Call, second: Call, device: str, rounds: int) -> tuple[float, float]:
    """Return the medians of alternate rounds, after three of each that do not count (compiling, caches)."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 3):
        for call, kept in zip((first, second), times, strict=True):
            taken = milliseconds(call, device)
            if number >= 3:
                kept.append(taken)
    return statistics.median(times[0]), statistics.median(times[1])


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference relative to the largest number."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))


def measure(case: Case, rounds: int) -> None:
    """Print a line for each kernel."""
    size = {"n": case.n, "d": case.d, "d_sae": case.d_sae, "k": case.k, "dtype": str(case.dtype).split(".")[-1]}
    for name, (plain, ours) in case.pairs().items():
        try:
            off = difference(plain(), ours())
            torch_ms, triton_ms = compare(plain, ours, case.device, rounds)
        except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
            print(json.dumps({"kernel": name, **size, "error": str(error).splitlines()[0]}), flush=True)
            continue
        line = {"torch_ms": torch_ms, "triton_ms": triton_ms, "ratio": torch_ms / triton_ms, "difference": off}
        print(json.dumps({"kernel": name, **size, **line}), flush=True)


def crossover(n: int, d: int, d_sae: int, dtype: torch.dtype, device: str, rounds: int) -> None:
    """Print from which F/k on the sparse products win, and all that was measured for it."""
    tried, k = {}, max(1, d_sae // 2048)
    while d_sae // k >= 32 and k <= 1024:
        dense_ms, sparse_ms = compare(*Case(n, d, d_sae, k, dtype, device).products(), device, rounds)
        tried[d_sae // k] = dense_ms / sparse_ms
        k *= 2
    wins = [ratio for ratio, gain in tried.items() if gain > 1]
    line = {"crossover_F_over_k": min(wins) if wins else None, "dense_over_sparse": tried}
    print(json.dumps({"n": n, "d": d, "d_sae": d_sae, "dtype": str(dtype).split(".")[-1], **line}), flush=True)


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--d-sae", type=int, nargs="+", default=[32_768, 131_072])
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--dtype", nargs="+", choices=["bfloat16", "float32"], default=["bfloat16", "float32"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true")
    a = parser.parse_args()
    if a.quick:
        a.d, a.d_sae, a.k, a.batch, a.rounds = 64, [128], 2, 16, 1
    if not kernels.available(torch.empty(0, device=a.device)):
        parser.error("needs Triton and a GPU (or TRITON_INTERPRET=1 with --device cpu)")
    print(json.dumps({"where": describe(a.device, torch.get_num_threads())}), flush=True)
    for dtype in (getattr(torch, name) for name in a.dtype):
        for d_sae in a.d_sae:
            measure(Case(a.batch, a.d, d_sae, a.k, dtype, a.device), a.rounds)
        crossover(a.batch, a.d, a.d_sae[0], dtype, a.device, a.rounds)


if __name__ == "__main__":
    main()

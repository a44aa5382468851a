"""Every kernel is compiled to machine code of an H100, with the arguments that its function gives it.

No GPU is needed for that. It shows what the interpreter is too lenient to see: types that do not fit, shapes that are
not powers of two, values whose type changes in a loop.
"""

import os
from typing import Any

import pytest
import torch

from sae_lightning.sae.kernels import pattern_of
from sae_lightning.sae.kernels import triton as kernels

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int32: "i32", torch.int64: "i64"}


def type_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"*{TYPES[value.dtype]}"
    return "fp32" if isinstance(value, float) else "i32" if abs(value) < 2**31 else "i64"


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Have kernels compiled instead of launched; return the names of those that were."""
    triton = pytest.importorskip("triton")
    if torch.cuda.is_available() or "TRITON_INTERPRET" in os.environ:
        pytest.skip("kernels run compiled here, or not at all")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    names: set[str] = set()

    def build(kernel: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> None:
        given = dict(zip([p.name for p in kernel.params], args, strict=False))
        given |= {p.name: options.pop(p.name) for p in kernel.params if p.name in options}
        assert len(given) == len(kernel.params)
        assert all(size > 0 for size in grid)
        constants = {p.name: given[p.name] for p in kernel.params if p.is_constexpr}
        signature = {p.name: "constexpr" if p.is_constexpr else type_of(given[p.name]) for p in kernel.params}
        source = ASTSource(kernel, signature, constants)
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]
        names.add(kernel.fn.__name__)

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(JITFunction, "run", build)
    return names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_selection(compiled, dtype):
    z = torch.randn(2, 20_000).to(dtype)
    kernels.row_top_k(z, 8)
    kernels.largest_places(z.flatten(), 8)
    assert compiled == {"_candidates", "_crowded", "_largest", "_digits", "_descend", "_compare", "_emit"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products(compiled, dtype):
    n, d_sae, d = 400, 3, 768
    indices, offsets = torch.arange(d_sae).repeat(n), torch.arange(n + 1) * d_sae
    pattern = pattern_of(indices, offsets, d_sae)
    x, W, values = torch.randn(n, d), torch.randn(d_sae, d), torch.randn(n * d_sae)
    kernels.sum_rows(W.to(dtype), indices, offsets, values)
    kernels.by_feature(x.to(dtype), values, pattern)
    kernels.sum_by_feature(values, pattern)
    kernels.dot_rows(x, W.to(dtype), pattern)
    assert compiled == {"_bags", "_parts", "_join", "_dots"}


@pytest.mark.parametrize("d", [768, 9000])
@pytest.mark.parametrize("kept", [True, False])
def test_adam(compiled, d, kept):
    shapes = [(5, d), (5,)]
    four = [[torch.zeros(shape) for shape in shapes] for _ in range(4)]
    steps = [torch.ones(()) for _ in shapes]
    options = {"clip": 1.0 if kept else None, "decoder": 0, "project": kept, "renormalise": True}
    kernels.adam_(four[0], four[1], four[2], four[3], steps, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, **options)
    assert compiled == {"_flat_squares", "_scales", "_adam_flat", "_adam_rows"} | ({"_row_squares"} if kept else set())

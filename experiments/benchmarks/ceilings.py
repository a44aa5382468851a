"""What the machine can do: products in float32 and bfloat16, and memory bandwidth. Prints a Markdown table.

    python -m experiments.benchmarks.ceilings --out outputs/bench/cpu
    python -m experiments.benchmarks.ceilings --out outputs/bench/gpu --device cuda --batch 8192 --d-sae 131072

The product of the encoder, [batch, d_in] by [d_in, d_sae], bounds every step: no SAE trains on more activations a
second than it lets through. Bandwidth counts bytes read and written. Writes ceilings.jsonl and ceilings.md.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.machine import describe
from experiments.benchmarks.results import markdown
from experiments.benchmarks.shape import check, step_parser

QUICK = {"d_in": 128, "d_sae": 2048, "batch": 256, "k": 16, "square": 512, "mib": 64, "steps": 3}


def timed(work: Callable[[], Any], a: Any) -> float:
    """Return the median seconds of ``work`` after one call that is not timed."""
    sync = torch.cuda.synchronize if a.device.startswith("cuda") else (lambda: None)
    work()
    seconds = []
    for _ in range(a.steps):
        sync()
        begun = time.perf_counter()
        work()
        sync()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def product(n: int, inner: int, m: int, dtype: torch.dtype, a: Any) -> float:
    """Return the seconds of [n, inner] @ [inner, m]; the right side lies by column, as the encoder's weights do."""
    left = torch.randn(n, inner, device=a.device).to(dtype)
    right = torch.randn(m, inner, device=a.device).to(dtype).t()
    out = torch.empty(n, m, device=a.device, dtype=dtype)
    return timed(lambda: torch.mm(left, right, out=out), a)


def measure(a: Any) -> list[dict[str, Any]]:
    """Return one line each for products and for bandwidth."""
    lines: list[dict[str, Any]] = []
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for what, (n, inner, m) in {
            "encoder product": (a.batch, a.d_in, a.d_sae),
            "square product": (a.square, a.square, a.square),
        }.items():
            seconds = product(n, inner, m, dtype, a)
            line = {"what": what, "dtype": name, "shape": [n, inner, m], "seconds": seconds}
            line["gflop_per_s"] = 2 * n * inner * m / seconds / 1e9
            if what == "encoder product":
                line["activations_per_s"] = n / seconds
            lines.append(line)
    count = a.mib * 2**20 // 4
    source, target = torch.ones(count, device=a.device), torch.empty(count, device=a.device)
    for what, moved, work in (
        ("read (sum)", 1, lambda: source.sum()),
        ("copy", 2, lambda: target.copy_(source)),
        ("update in place (x += y)", 3, lambda: target.add_(source)),
    ):
        seconds = timed(work, a)
        lines.append(
            {
                "what": what,
                "dtype": "float32",
                "shape": [count],
                "seconds": seconds,
                "gb_per_s": moved * 4 * count / seconds / 1e9,
            }
        )
    return lines


def render(lines: list[dict[str, Any]], where: str) -> str:
    """Return the table."""
    cells = [
        [
            line["what"],
            line["dtype"],
            " x ".join(f"{size:,}" for size in line["shape"]),
            f"{line['seconds']:.4g}",
            f"{line['gflop_per_s']:,.0f} GFLOP/s" if "gflop_per_s" in line else f"{line['gb_per_s']:.1f} GB/s",
            f"{line['activations_per_s']:,.0f}" if "activations_per_s" in line else None,
        ]
        for line in lines
    ]
    columns = ("ceiling", "dtype", "shape", "s", "rate", "activations/s it allows")
    return f"Measured on: {where}\n\n{markdown(columns, cells)}\n"


def main() -> None:
    parser = step_parser(__doc__, steps=15, warmup=1)
    parser.add_argument("--square", type=int, default=4096, help="side of the square product")
    parser.add_argument("--mib", type=int, default=512, help="size of the arrays for bandwidth")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--quick", action="store_true", help=f"small shapes: {QUICK}")
    a = parser.parse_args()
    if a.quick:
        vars(a).update(QUICK)
    check(parser, a)
    torch.set_num_threads(a.threads)
    if a.device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
    lines, where = measure(a), describe(a.device, a.threads)
    a.out.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps({"where": where, **line}) + "\n" for line in lines)
    (a.out / "ceilings.jsonl").write_text(text, encoding="utf-8")
    page = render(lines, where)
    (a.out / "ceilings.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()

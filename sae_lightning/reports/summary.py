"""The table at the end of a run."""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

MEANING = {
    "fvu": "fraction of variance unexplained: sum SSE / sum ||x - mean||²",
    "explained_variance": "1 - fvu",
    "l0": "active features a token",
    "l1": "sum of activations a token",
    "dead": "share of features without firing, by training tokens",
    "cosine": "mean cosine of x and its reconstruction",
    "l2_ratio": "mean ||x_hat|| / ||x|| (below 1: shrinkage)",
    "ce_clean": "the model's cross-entropy, nats a token",
    "ce_spliced": "the same with the reconstruction in place",
    "delta_ce": "ce_spliced - ce_clean",
    "kl": "KL(clean || spliced), nats a token",
    "ce_recovered_zero": "of the loss that zeroing the site costs",
    "ce_recovered_mean": "of the loss that the mean activation costs",
}


def show_summary(metrics: dict[str, float | None], files: dict[str, Path]) -> None:
    """Print the held-out metrics and the paths of what was written, on stdout."""
    console = Console(file=sys.stdout, soft_wrap=True)
    table = Table(title="Held-out metrics", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("meaning", overflow="fold")
    for name, value in metrics.items():
        table.add_row(name, "-" if value is None else f"{value:.4f}", MEANING.get(name, ""))
    console.print(table)
    for what, path in files.items():
        console.print(f"{what:12} {path}", highlight=False, markup=False)

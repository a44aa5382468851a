"""An evaluation as ``evaluation.json`` holds it, written by hand: every section of the page has something to show."""

from typing import Any

import numpy as np

VALUES = {
    "reconstruction": {
        "fvu": 0.231,
        "explained_variance": 0.769,
        "ev_per_token": 0.742,
        "ev_residual_variance": 0.771,
        "mse": 0.0184,
        "cosine": 0.879,
        "l2_ratio": 0.912,
    },
    "sparsity": {"l0": 31.7, "l1": 88.2, "dead": 0.042, "dense_share": 0.0031},
    "downstream": {
        "ce_clean": 3.412,
        "ce_spliced": 3.587,
        "delta_ce": 0.175,
        "kl": 0.161,
        "ce_zero": 11.94,
        "ce_mean": 8.213,
        "ce_recovered_zero": 0.9795,
        "ce_recovered_mean": 0.9635,
        "kl_recovered_mean": 0.966,
    },
    "groundtruth": {"f1": 0.71, "mcc": 0.74, "mmcs": 0.81, "uniqueness": 0.93, "shrinkage": None},
}


def estimate(value: float | None, spread: float = 0.02, tokens: int = 131_072) -> dict[str, Any]:
    if value is None:
        return {"value": None, "low": None, "high": None, "tokens": 0}
    return {"value": value, "low": value * (1 - spread), "high": value * (1 + 1.3 * spread), "tokens": tokens}


def table(columns: list[str], rows: list[list[Any]], caption: str = "") -> dict[str, Any]:
    return {"columns": columns, "rows": rows, "caption": caption}


def sae_of(i: int, label: str = "") -> dict[str, Any]:
    """Return one SAE's part; ``i`` makes it differ, ``label`` stands wherever a text can come from outside."""
    rng = np.random.default_rng(i)
    factor = 1 + 0.05 * i
    studies = {
        study: {
            "estimates": {name: estimate(None if v is None else v * factor) for name, v in values.items()},
            "tables": {},
            "notes": [],
        }
        for study, values in VALUES.items()
    }
    counts = (400 * np.exp(-(((np.linspace(-7, 0, 51)[:-1] + 2.6) / 0.7) ** 2))).astype(int)
    edges = np.linspace(-7, 0, 51)
    studies["sparsity"]["tables"]["density_histogram"] = table(
        ["from", "to", "features"],
        [[float(a), float(b), int(n)] for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)],
        "Features by log10 of the share of tokens on which they are active",
    )
    probes = {}
    for task, best in (("rotten_tomatoes", 0.72), ("news_source", 0.88)):
        for kind, accuracy in (("probe", best), ("sparse_probe", best + 0.05), ("random_probe", 0.53)):
            for k in ("",) if kind == "probe" else ("/k1", "/k2", "/k5"):
                probes[f"{kind}_accuracy/{task}{k}"] = estimate(accuracy + 0.01 * i, 0.03, 9_000)
                probes[f"{kind}_loss/{task}{k}"] = estimate(1.2 - accuracy, 0.03, 9_000)
        probes[f"dense_probe_accuracy/{task}"] = estimate(0.95, 0.02, 9_000)
        probes[f"dense_probe_loss/{task}"] = estimate(0.12, 0.1, 9_000)
    studies["probe"] = {"estimates": probes, "tables": {}, "notes": []}
    studies["ablation"] = {
        "estimates": {"ablation_delta_ce": estimate(0.0021, 0.4), "ablation_share_nonzero": estimate(0.38, 0.1)},
        "tables": {
            "features": table(
                ["feature", "firings", "delta_ce", "low", "high", "kl"],
                [
                    [int(f), int(n), float(d), float(d - 0.002), float(d + 0.002), float(abs(d) / 2)]
                    for f, n, d in zip(
                        rng.integers(0, 4096, 20), rng.integers(20, 4000, 20), rng.normal(0.004, 0.006, 20), strict=True
                    )
                ],
                "Features by their downstream change",
            )
        },
        "notes": [f"sampled 20 of 3,921 features {label}".strip()],
    }
    return {
        "path": f"run-{i}{label}",
        "sae": {"architecture": "batch_topk", "d_in": 576, "d_sae": 4096, "d_out": 576, "k": 32},
        "lm": {"name": f"smollm2{label}", "sha256": "0" * 64},
        "sites": {"read": ["blocks.9.hook_resid_post"], "write": ["blocks.9.hook_resid_post"]},
        "mask": {"special_ids": [0, 1, 2], "first_position": True, "norm_multiple": 10.0, "median_norm": 27.3},
        "data": {"source": f"news{label}", "split": "held-out", "context_length": 128, "windows": 1024},
        "studies": studies,
    }


def comparison(names: list[str]) -> dict[str, Any]:
    rows = []
    for a, b in ((a, b) for i, a in enumerate(names) for b in names[i + 1 :]):
        for study, values in VALUES.items():
            for j, (name, value) in enumerate(values.items()):
                if value is not None:
                    word = "indistinguishable" if j % 2 else f"{a} better"
                    rows.append([study, name, a, b, value, value * 1.05, -0.05 * value, -0.08 * value, 0.01, word])
    columns = ["study", "metric", "a", "b", "value_a", "value_b", "difference", "low", "high", "verdict"]
    return {"estimates": {}, "tables": {"differences": table(columns, rows, "a - b")}, "notes": []}


def together(names: list[str]) -> dict[str, Any]:
    a, b = names[:2]
    pairs = table(["rank", f"feature of {a}", f"feature of {b}", "cosine"], [[1, 3, 7, 0.99], [2, 5, 1, 0.2]], "Pairs")
    consistency = {
        "estimates": {f"consistency_cosine/{a} ~ {b}": estimate(0.61, 0.01, 4096)},
        "tables": {f"{a} ~ {b}": pairs},
        "notes": [],
    }
    return {"compare": comparison(names), "consistency": consistency}


def evaluation(n_saes: int = 1, label: str = "") -> dict[str, Any]:
    """Return an evaluation of ``n_saes`` SAEs."""
    saes = {f"sae {i}{label}": sae_of(i, label) for i in range(n_saes)}
    return {
        "format": "sae_lightning.evaluation",
        "version": 1,
        "created": "2026-11-21T19:00:00+00:00",
        "seed": 0,
        "draws": 1000,
        "saes": saes,
        "comparisons": together(list(saes)) if n_saes > 1 else {},
        "environment": {"packages": {"torch": "2.9.0"}, "git": None, "machine": {"cpu": label or "some", "cores": 2}},
        "seconds": 83.4,
    }

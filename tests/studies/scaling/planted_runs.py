"""Made-up sweeps whose law is known: folders with records as finished runs leave them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

WIDTHS = tuple(2**i for i in range(9, 15))
KS = tuple(2**i for i in range(2, 8))


def record(**values: Any) -> dict[str, Any]:
    """Return a record with every key that ScalingLog writes."""
    d_sae, tokens = values.get("d_sae", 512), values.get("tokens", 100_000)
    k = values.get("k", 16)
    base = {
        "name": "made_up", "run_dir": "0", "lm": "tiny", "sites": ["blocks.1.hook_resid_post"], "batch_size": 256,
        "lr": 1e-3, "lane": "sae", "architecture": "topk", "d_in": 64, "d_out": 64, "d_sae": d_sae, "k": k,
        "parameters": 129 * d_sae + 64, "tokens": tokens, "training_flops": 640 * d_sae * tokens, "seed": 0,
        "seconds": 1.5, "dead_after_tokens": 1000, "fvu": 0.1, "l0": float(k or 20), "l1": 3.0, "dead": 0.1,
        "cosine": 0.9, "l2_ratio": 0.95, "ce_clean": 3.0, "ce_spliced": 3.2, "delta_ce": 0.2, "kl": 0.2,
        "ce_recovered_zero": 0.98, "ce_recovered_mean": 0.95,
    }  # fmt: skip
    base["explained_variance"] = 1 - values.get("fvu", 0.1)
    return base | values


def write_run(folder: Path, *records: dict[str, Any], config: dict[str, Any] | None = None, done: bool = True) -> Path:
    """Write a run's folder: records, and with a config also metrics.json as the sign of a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    if records:
        (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        for one in records if done else ():
            home = folder if len(records) == 1 else folder / "lanes" / one["lane"]
            home.mkdir(parents=True, exist_ok=True)
            (home / "metrics.json").write_text("{}")
    return folder


# SCIENCE section 3: L(N, k) = exp(a + b_k ln k + b_n ln N + g ln k ln N) + exp(z + e ln k)
JOINT_TRUTH = {"a": 1.5, "b_k": -0.1, "b_n": -0.25, "g": -0.03, "z": -2.0, "e": -0.2}


def joint_loss(n: float, k: float, t: dict[str, float] = JOINT_TRUTH) -> float:
    x, y = np.log(k), np.log(n)
    return float(np.exp(t["a"] + t["b_k"] * x + t["b_n"] * y + t["g"] * x * y) + np.exp(t["z"] + t["e"] * x))


def joint_runs(seed: int, noise: float = 0.01) -> list[dict[str, Any]]:
    """Return a sweep over widths and k whose fvu follows the joint law, times exp(noise * normal)."""
    rng = np.random.default_rng(seed)
    return [
        record(d_sae=n, k=k, fvu=joint_loss(n, k) * float(np.exp(noise * rng.standard_normal())))
        for n in WIDTHS
        for k in KS
    ]


# Loss of width and budget, each a power law; along the best width for each compute it is a power law of compute too:
# A n^-alpha + B t^-beta at n t = C has its least value in proportion to C^(-alpha beta / (alpha + beta)).
ALPHA, BETA = 0.35, 0.30
COMPUTE_TRUTH = -ALPHA * BETA / (ALPHA + BETA)


def compute_runs(seed: int, noise: float = 0.01) -> list[dict[str, Any]]:
    """Return a sweep over widths and budgets at one k, of which only the lower envelope follows a law of compute."""
    rng = np.random.default_rng(seed)
    found = []
    for n in WIDTHS:
        for t in (2**i for i in range(18, 24)):
            loss = 0.5 * ((n / WIDTHS[0]) ** -ALPHA + (t / 2**18) ** -BETA)
            found.append(record(d_sae=n, k=16, tokens=t, fvu=loss * float(np.exp(noise * rng.standard_normal()))))
    return found


# L(N) at one k with three seeds a width.
WIDTH_TRUTH = {"a": 1.0, "b": -0.4, "z": float(np.log(0.05))}


def width_runs(seed: int, noise: float = 0.01, floor: bool = True) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    found = []
    for n in WIDTHS:
        for s in range(3):
            loss = np.exp(WIDTH_TRUTH["a"]) * n ** WIDTH_TRUTH["b"] + floor * np.exp(WIDTH_TRUTH["z"])
            found.append(record(d_sae=n, k=16, seed=s, fvu=float(loss * np.exp(noise * rng.standard_normal()))))
    return found

"""The train command, as a user runs it: run folder, metrics, resume, refusals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

HELDOUT = {
    "fvu",
    "explained_variance",
    "l0",
    "l1",
    "dead",
    "cosine",
    "l2_ratio",
    "ce_clean",
    "ce_spliced",
    "delta_ce",
    "kl",
    "ce_recovered_zero",
    "ce_recovered_mean",
}


def test_run_folder_holds_what_the_readme_lists(command, tiny_run, tmp_path: Path) -> None:
    done = command("train", *tiny_run, "paths.run_dir=run")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    expected = {
        "heldout",
        "intervals",
        "measured_on",
        "tokens",
        "seconds",
        "tokens_per_s",
        "seed",
        "lm_windows_read",
        "activations",
    }
    assert set(metrics) == expected
    assert metrics["intervals"]["delta_ce"] is not None
    assert set(metrics["heldout"]) == set(metrics["intervals"]) == set(metrics["measured_on"]) == HELDOUT
    for name, interval in metrics["intervals"].items():
        if interval is not None:  # 512 rows are too few blocks, and training counts the dead over no windows
            assert interval[0] <= metrics["heldout"][name] <= interval[1], name
    assert all(isinstance(v, float) for v in metrics["heldout"].values())
    assert metrics["tokens"] == 5120
    assert metrics["heldout"]["fvu"] < 0.9
    assert metrics["heldout"]["fvu"] + metrics["heldout"]["explained_variance"] == pytest.approx(1)
    record = json.loads((run / "records.jsonl").read_text())
    assert record["training_flops"] == 10 * 32 * 64 * 5120
    assert record["parameters"] == 2 * 32 * 64 + 64 + 32
    assert record["fvu"] == metrics["heldout"]["fvu"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["sae"]["d_sae"] == 64
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert list((run / "tensorboard").glob("events.*"))
    assert (run / "train.log").stat().st_size > 0
    assert load_file(run / "export" / "sae.safetensors")["W_enc"].shape == (32, 64)
    assert "tokens" in done.stderr
    assert "fvu" in done.stdout
    assert str(run) in done.stdout


def test_no_language_model_leaves_its_metrics_null(command, rows_file: Path, tmp_path: Path) -> None:
    done = command(
        "train", "lm=none", "data=activations", f"data.path={rows_file}", "data.batch_size=256", "tokens=5120",
        "model=topk", "sae.d_sae=64", "sae.k=4", "paths.run_dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    heldout = json.loads((tmp_path / "run" / "metrics.json").read_text())["heldout"]
    assert heldout["ce_clean"] is None
    assert heldout["ce_recovered_zero"] is None
    assert heldout["l0"] <= 4


def test_same_seed_same_bits_and_another_seed_others(command, tiny_run, tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        # Evaluation has a stream of its own: with it on or off the same tokens come in the same order.
        extra = ["evaluation.every_n_steps=0"] if folder == "b" else []
        done = command("train", *tiny_run, "tokens=1280", f"seed={seed}", f"paths.run_dir={folder}", *extra)
        assert done.returncode == 0, done.stderr
    weights = {f: (tmp_path / f / "export" / "sae.safetensors").read_bytes() for f in "abc"}
    assert weights["a"] == weights["b"]
    assert weights["a"] != weights["c"]


def test_overfitting_one_batch_drives_the_loss_down(command, tiny_run, tmp_path: Path) -> None:
    done = command("train", *tiny_run, "debug=overfit", "tokens=25600", "optimizer.lr=3e-3", "paths.run_dir=run")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run/csv/sitting-1/metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("metrics/fvu")
    fvu = [float(v) for line in lines[1:] if (v := line.split(",")[column])]
    assert fvu[-1] < 0.5 * fvu[0]


def test_help_names_the_choices(command) -> None:
    done = command("train", "--help")
    assert done.returncode == 0
    assert "model: batch_topk, gated, jumprelu, matryoshka, standard, topk" in done.stdout


@pytest.mark.parametrize("entry", ["train", "tokenize"])
def test_help_and_misspelt_keys_wait_for_no_heavy_import(entry: str) -> None:
    # What makes --help answer in under two seconds: none of the imports that take longer.
    code = (
        f"import sys, sae_lightning.{entry}; "
        "print([m for m in ('torch', 'lightning', 'transformers', 'transformer_lens', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_finished_run_is_not_resumed(command, tiny_run, tmp_path: Path) -> None:
    assert command("train", *tiny_run, "tokens=640", "paths.run_dir=run").returncode == 0
    done = command("train", "resume=run")
    assert done.returncode == 2
    assert "complete" in done.stderr
    again = command("train", *tiny_run, "paths.run_dir=run")
    assert again.returncode == 2
    assert "holds a run already" in again.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_multirun_makes_one_run_a_value(command, tiny_run, tmp_path: Path) -> None:
    done = command("train", "--multirun", *tiny_run, "tokens=640", "sae.k=4,8")
    assert done.returncode == 0, done.stderr
    records = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("outputs/multirun/*/*/records.jsonl"))]
    assert [r["k"] for r in records] == [4, 8]

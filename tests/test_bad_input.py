"""Every mistake a user can make gets one line that names value, rule and remedy, exit code 2, no traceback."""

import json
from pathlib import Path

import numpy as np
import pytest

ROWS = ["lm=none", "data=activations", "data.batch_size=256", "tokens=5120", "model=topk", "sae.d_sae=64", "sae.k=4"]


def refused(done, *words: str) -> None:
    """Check the form of a refusal and that it names ``words``."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.strip().splitlines()[-1] == lines[0]
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sae.d_sea=64"], ["sae.d_sea", "sae.d_sae"]),
        (["optimizer.learning_rate=1"], ["optimizer.learning_rate", "unknown key"]),
        (["modle=topk"], ["modle", "model"]),
        (["model=top_k"], ["top_k", "topk"]),
        (["lm=gpt3"], ["gpt3", "smollm2"]),
        (["sae.d_sae=wide"], ["sae.d_sae", "wide"]),
        (["tokens=-5"], ["tokens", "-5"]),
        (["tokens=true"], ["tokens=True", "whole number"]),
        (["callbacks=[[metrics_log]]"], ["callbacks=[[metrics_log]]"]),
        (["seed=x"], ["seed", "x"]),
        (["sae.k=0"], ["sae.k", "0"]),
        (["sae.k=9999"], ["sae.k=9999", "sae.d_sae=4608"]),
        (["tokens=100"], ["tokens=100", "data.batch_size"]),
        (["data.buffer_tokens=1024"], ["data.buffer_tokens=1024", "data.batch_size"]),
        (["optimizer.lr=0"], ["optimizer.lr"]),
        (["scheduler.warmup=0.9", "scheduler.decay=0.9"], ["scheduler.warmup=0.9"]),
        (["trainer.precision=8"], ["trainer.precision"]),
        (["data=text"], ["data.path", "needed"]),
        (["lm=none"], ["lm=none", "data=activations"]),
        (["data=activations", "data.path=x.npy"], ["lm=none"]),
        (["resume=nowhere"], ["nowhere", "config.yaml"]),
        (["losses.aux_k.coefficient.kind=sometimes"], ["losses.aux_k.coefficient", "sometimes"]),
        (["callbacks.dead_features.after_tokens=0"], ["after_tokens"]),
        (["losses.aux_k._target_=sae_lightning.losses.Nope"], ["Nope"]),
        (["sae.k=4,8"], ["sae.k"]),
        (["callbacks=null"], ["callbacks=null"]),
        (["seed=5000000000"], ["seed", "5000000000"]),
        (["trainer.accelerator=mps"], ["trainer.accelerator=mps", "auto"]),
        (["trainer.strategy=fsdp"], ["trainer.strategy", "fsdp", "ddp"]),
        (["trainer.devices=3"], ["data.batch_size=2048", "trainer.devices=3"]),
        (["losses.reconstruction=null"], ["losses", "reconstruct"]),
        (["optimizer.lr=inf"], ["optimizer.lr"]),
        (["callbacks.dead_features=null"], ["callbacks.dead_features"]),
        (["paths.run_dir=/proc/nowhere/run"], ["/proc/nowhere"]),
        (["+callbacks.x._target_=os.getcwd"], ["callbacks.x"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and "=" in value[0] else "",
)
def test_bad_setting(command, overrides: list[str], words: list[str], tmp_path: Path, tiny_run) -> None:
    # Settings whose check needs the LM's room at all are checked with the tiny model.
    tiny = ["lm=tiny"] if not any(o.startswith(("lm=", "data=", "resume=")) for o in overrides) else []
    refused(command("train", *tiny, *overrides), *words)
    assert not list(tmp_path.glob("outputs/runs/*"))


def test_missing_site_names_near_ones(command, tiny_run) -> None:
    refused(command("train", *tiny_run, "sites.read=[blocks.1.hook_resid_pots]"), "hook_resid_pots", "hook_resid_post")


def test_layer_out_of_range(command, tiny_run) -> None:
    refused(command("train", *tiny_run, "sites.layer=40"), "40", "2")


def test_context_beyond_the_model(command, tiny_run) -> None:
    refused(command("train", *tiny_run, "data.context_length=4096"), "data.context_length=4096", "64")


@pytest.mark.parametrize("kind", ["missing", "empty", "folder", "binary"])
def test_unreadable_corpus(command, tiny_run, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.txt"
    match kind:
        case "empty":
            path.write_text("")
        case "folder":
            path = tmp_path / "nothing"
            path.mkdir()
        case "binary":
            path.write_bytes(b"\xff\xfe\x00\x9f" * 100)
    refused(command("train", *tiny_run, f"data.path={path}"), str(path.name))


def test_missing_field_names_the_fields_there_are(command, tiny_run) -> None:
    refused(command("train", *tiny_run, "data.field=body"), "body", "text")


def test_corpus_smaller_than_a_batch(command, tiny_run, tmp_path: Path) -> None:
    path = tmp_path / "small.txt"
    path.write_text("only a few words\n\nand a few more")
    refused(command("train", *tiny_run, f"data.path={path}"))


def test_token_file_with_ids_beyond_the_vocabulary(command, tiny_run, tmp_path: Path) -> None:
    ids = np.arange(5000, dtype=np.uint16) % 200
    ids[1234] = 60000
    ids[::100] = 65535
    (tmp_path / "bad.bin").write_bytes(ids.tobytes())
    rest = [a for a in tiny_run if not a.startswith("data=") and not a.startswith("data.path")]
    arguments = ["data=tokens", "data.path=bad.bin", "data.dtype=uint16", "data.separator=65535", *rest]
    refused(command("train", *arguments), "60000", "1234")


@pytest.mark.parametrize("kind", ["nan", "width", "flat", "short", "torn"])
def test_bad_activations(command, rows_file: Path, tmp_path: Path, kind: str) -> None:
    rows = np.load(rows_file)
    path, words = tmp_path / "bad.npy", ["bad.npy"]
    extra = []
    match kind:
        case "nan":
            rows[4321, 3] = np.nan
            words.append("4321")
            np.save(path, rows)
        case "width":
            np.save(path, rows[:, :8])
            extra, path = [f"data.heldout={path}"], rows_file
            words.append("8")
        case "flat":
            np.save(path, rows.ravel())
        case "short":
            np.save(path, rows[:20])
        case "torn":
            np.save(path, rows)
            path.write_bytes(path.read_bytes()[:-1000])
    refused(command("train", *ROWS, f"data.path={path}", *extra, "paths.run_dir=run"), *words)


def test_unknown_hub_name_without_network(command, tiny_run) -> None:
    arguments = ["lm=hf", "lm.name=nobody/no-such-model", *[a for a in tiny_run if a != "lm=tiny"]]
    refused(command("train", *arguments), "nobody/no-such-model", "smollm2")


def test_too_little_memory_stops_with_the_numbers(command, rows_file: Path) -> None:
    overrides = ["sae.d_sae=4000000000", f"data.path={rows_file}"]
    refused(command("train", *ROWS, *overrides), "GiB", "sae.d_sae")


def test_a_loss_that_turns_nan_keeps_the_last_good_checkpoint(command, rows_file: Path, tmp_path: Path) -> None:
    arguments = [
        *[a for a in ROWS if "batch_size" not in a and "model" not in a and "k=" not in a],
        "model=standard",
        f"data.path={rows_file}",
        "data.batch_size=64",
        "optimizer.lr=1e37",
        "optimizer.clip=null",
        "scheduler.warmup=1.0",
        "scheduler.decay=0.0",
        "callbacks.checkpoints.every_n_steps=1",
        "evaluation.every_n_steps=0",
        "paths.run_dir=run",
    ]
    done = command("train", *arguments)
    refused(done, "not finite at step", "reconstruction=")
    from sae_lightning.training import last_good

    assert last_good(tmp_path / "run").is_file()


def test_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path, rows_file: Path) -> None:
    import os
    import resource
    import subprocess
    import sys

    limit = 200_000  # bytes a file may have: the first checkpoints fit, a longer log or a wider one does not

    def run(*extra: str, size: int | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sae_lightning.train", *ROWS, f"data.path={rows_file}", *extra],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            timeout=240,
            check=False,
            preexec_fn=None if size is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        )

    done = run("sae.d_sae=4096", "paths.run_dir=run", "callbacks.checkpoints.every_n_steps=5", size=limit)
    refused(done, "disk is full", "resume=")
    assert not list((tmp_path / "run/checkpoints").glob("*.ckpt"))  # nothing half-written


def test_corrupt_checkpoint_is_named_and_the_one_before_used(command, tiny_run, tmp_path: Path) -> None:
    arguments = [*tiny_run, "tokens=2560", "callbacks.checkpoints.every_n_steps=5", "callbacks.checkpoints.best=false"]
    assert command("train", *arguments, "paths.run_dir=run").returncode == 0
    reference = (tmp_path / "run/export/sae.safetensors").read_bytes()
    newest = sorted((tmp_path / "run/checkpoints").glob("step-*.ckpt"))[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    (tmp_path / "run/metrics.json").unlink()
    done = command("train", "resume=run")
    assert done.returncode == 0, done.stderr
    assert newest.name in done.stderr
    assert "corrupt" in done.stderr
    assert (tmp_path / "run/export/sae.safetensors").read_bytes() == reference

    for path in (tmp_path / "run/checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "run/metrics.json").unlink()
    refused(command("train", "resume=run"), "no whole checkpoint")


def test_resume_takes_no_other_settings(command, tiny_run) -> None:
    assert command("train", *tiny_run, "tokens=640", "paths.run_dir=run").returncode == 0
    refused(command("train", "resume=run", "sae.k=3"), "sae.k")


def test_heldout_rows_that_are_the_training_rows(command, rows_file: Path) -> None:
    refused(command("train", *ROWS, f"data.path={rows_file}", f"data.heldout={rows_file}"), "data.heldout", "training")


def test_a_run_without_a_checkpoint_starts_over_on_resume(command, tiny_run, tmp_path: Path) -> None:
    assert command("train", *tiny_run, "tokens=640", "paths.run_dir=run").returncode == 0
    reference = (tmp_path / "run/export/sae.safetensors").read_bytes()
    for path in [*(tmp_path / "run/checkpoints").iterdir(), tmp_path / "run/metrics.json"]:
        path.unlink()
    done = command("train", f"resume={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "from step 0" in done.stderr
    assert (tmp_path / "run/export/sae.safetensors").read_bytes() == reference


def test_tokenize_refusals(command, tmp_path: Path) -> None:
    refused(command("tokenize", "lm=tiny"), "out", "needed")
    refused(command("tokenize", "lm=tiny", "data=text", "data.path=gone.txt", "out=x.bin"), "gone.txt")
    refused(command("tokenize", "lm=tiny", "out=x.bin", "wrokers=3"), "wrokers", "workers")


def test_tokenize_then_train_on_the_file(command, tiny_run, text_file: Path, tmp_path: Path) -> None:
    done = command("tokenize", "lm=tiny", "data=text", f"data.path={text_file}", "out=corpus.bin")
    assert done.returncode == 0, done.stderr
    assert "200 documents" in done.stdout
    assert "separator" in done.stdout
    rest = [a for a in tiny_run if not a.startswith("data=") and not a.startswith("data.path")]
    run = command("train", "data=tokens", "data.path=corpus.bin", *rest, "tokens=640", "paths.run_dir=run")
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "run/metrics.json").read_text())["tokens"] == 640

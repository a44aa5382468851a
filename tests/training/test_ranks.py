"""Several processes train one run: the same weights, counters and figures as one process, for the same batches."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sae_lightning.training.checkpoints import damage, part_path
from tests.conftest import tiny_arguments
from tests.training.test_exact_resume import SETTINGS, differences, perform


def assert_close(found: Any, expected: Any) -> None:
    """Check that tensors are the same up to the order in which sums were made; whole numbers are the same."""
    exact = isinstance(expected, torch.Tensor) and not expected.is_floating_point()
    torch.testing.assert_close(found, expected, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6)


def arguments(text_file: Path, cache: Path, model: str) -> list[str]:
    """Return overrides of a tiny run that reads kept activations: all processes cut the same batches."""
    return [
        *tiny_arguments(text_file),
        *SETTINGS,
        "data.cache=auto",
        f"data.cache_dir={cache}",
        f"model={model}",
        "trainer.encoder=float32",
        *(["sae.k=4"] if "topk" in model else ["sae.l1=1"]),
    ]


def last_state(run_dir: Path) -> dict[str, Any]:
    """Return the last checkpoint of a run."""
    return torch.load(sorted((run_dir / "checkpoints").glob("step-*.ckpt"))[-1], weights_only=True)


def scalars_of(run_dir: Path) -> dict[str, list[float]]:
    """Return what a run logged, by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize(("model", "worlds"), [("standard", (2,)), ("topk", (4,)), ("batch_topk", (2, 4))])
def test_two_and_four_processes_train_what_one_does(
    model: str, worlds: tuple[int, ...], text_file: Path, tmp_path: Path
) -> None:
    overrides = arguments(text_file, tmp_path / "cache", model)
    runs = {world: tmp_path / f"ranks-{world}" for world in (1, *worlds)}
    jobs: list[dict[str, Any]] = [{"overrides": overrides, "run_dir": str(runs[1])}]
    for world in worlds:
        own = [*overrides, f"trainer.devices={world}"]
        jobs.append({"overrides": own, "run_dir": str(runs[world]), "ranks": world})
    results = perform(jobs)
    said = runs[worlds[0]].with_suffix(".out").read_text()
    assert [r["status"] for r in results] == [0, *([0] * world for world in worlds)], said
    one, logged = last_state(runs[1]), scalars_of(runs[1])
    assert int(one["state_dict"]["lanes.sae.tokens_seen"]) == 7680
    if model != "standard":
        assert max(logged["sparsity/dead"]) > 0, "some features should be dead for the counters to say something"
    figures = json.loads((runs[1] / "metrics.json").read_text())["heldout"]
    for world in worlds:
        state = last_state(runs[world])
        for name, value in one["state_dict"].items():
            assert_close(state["state_dict"][name], value)
        for number, moments in one["optimizer_states"][0]["state"].items():
            for key, moment in moments.items():
                assert_close(state["optimizer_states"][0]["state"][number][key], moment)
        found = json.loads((runs[world] / "metrics.json").read_text())
        assert found["processes"] == world
        assert found["heldout"] == pytest.approx(figures, rel=1e-5, abs=1e-6)
        own = scalars_of(runs[world])
        assert own.keys() == logged.keys()
        for tag, values in logged.items():
            if not tag.startswith("throughput/tokens_per_s"):
                assert own[tag] == pytest.approx(values, rel=1e-4, abs=1e-5), tag
        # Who is not the first writes nothing but its part of the work.
        assert len(list((runs[world] / "tensorboard").glob("events*"))) == 1


def test_an_end_to_end_objective_in_two_processes(text_file: Path, tmp_path: Path) -> None:
    # Each has its own windows of the batch, of which the mask leaves other numbers of rows.
    overrides = [
        *arguments(text_file, tmp_path / "cache", "batch_topk"),
        "objective=e2e_recon",
        "objective.block_mse=0.1",
    ]
    overrides += ["tokens=1280", "data.packing=document", "evaluation.every_n_steps=0"]
    runs = {world: tmp_path / f"ranks-{world}" for world in (1, 2)}
    jobs: list[dict[str, Any]] = [{"overrides": overrides, "run_dir": str(runs[1])}]
    jobs.append({"overrides": [*overrides, "trainer.devices=2"], "run_dir": str(runs[2]), "ranks": 2})
    results = perform(jobs)
    assert [r["status"] for r in results] == [0, [0, 0]], runs[2].with_suffix(".out").read_text()
    one, two = last_state(runs[1])["state_dict"], last_state(runs[2])["state_dict"]
    assert int(one["lanes.sae.tokens_seen"]) < 1280, "the mask leaves fewer rows than positions"
    for name, value in one.items():
        assert_close(two[name], value)


def test_a_killed_rank_ends_the_others_and_the_run_goes_on_bit_for_bit(text_file: Path, tmp_path: Path) -> None:
    overrides = [*arguments(text_file, tmp_path / "cache", "batch_topk"), "trainer.devices=2"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    results = perform(
        [
            {"overrides": overrides, "run_dir": str(whole), "ranks": 2},
            {"overrides": overrides, "run_dir": str(cut), "ranks": 2, "victim": 1, "kill_after_checkpoint": 0.05},
            {"run_dir": str(cut), "ranks": 2, "resume": True},
        ]
    )
    assert results[0]["status"] == [0, 0], whole.with_suffix(".out").read_text()
    # The other one notices by itself, and says that it was not its own doing.
    assert results[1]["status"] == [75, -signal.SIGKILL], cut.with_suffix(".out").read_text()
    assert results[1]["after_signal"] < 30
    assert results[2]["status"] == [0, 0], cut.with_suffix(".out").read_text()
    assert differences(whole, cut) == []


def test_a_signal_to_one_rank_stops_all_after_the_same_step_streaming(text_file: Path, tmp_path: Path) -> None:
    # Streaming: each has a buffer of its own, whose state travels in the one checkpoint.
    overrides = [*tiny_arguments(text_file), *SETTINGS, "trainer.devices=2"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    stop = {"ranks": 2, "victim": 1, "kill_after_checkpoint": 0.05, "signal": int(signal.SIGTERM)}
    results = perform(
        [
            {"overrides": overrides, "run_dir": str(whole), "ranks": 2},
            {"overrides": overrides, "run_dir": str(cut), **stop},
            {"run_dir": str(cut), "ranks": 2, "resume": True},
            {"run_dir": str(cut), "resume": True, "devices": 1},
        ]
    )
    statuses = [result["status"] for result in results]
    assert statuses == [[0, 0], [143, 143], [0, 0], 1], cut.with_suffix(".out").read_text()
    assert differences(whole, cut) == []
    # With another number of processes it is refused, with the reason.
    assert "trainer.devices=1: the checkpoint is that of 2 process(es)" in cut.with_suffix(".out").read_text()
    parts = last_state(whole)["ActivationDataModule"]["parts"]
    assert len(parts) == 2
    own = [set(part["token_index"].tolist()) for part in parts]
    assert all(own)
    assert not own[0] & own[1], "a window goes through the language model of one process alone"


def test_processes_whose_windows_leave_other_numbers_of_rows_all_reach_the_budget(tmp_path: Path) -> None:
    # Documents of very different lengths, one a window: the mask leaves each process another number of rows.
    corpus = tmp_path / "uneven.jsonl"
    texts = [f"{number} " + "stone river " * (1 if number % 8 < 4 else 15) for number in range(400)]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    overrides = [*tiny_arguments(corpus), "data.packing=document", "trainer.devices=2", "evaluation.every_n_steps=0"]
    run_dir = tmp_path / "run"
    (result,) = perform([{"overrides": overrides, "run_dir": str(run_dir), "ranks": 2}])
    assert result["status"] == [0, 0], result["words"]
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["tokens"] == 5120


def test_features_in_two_processes_end_as_in_one_and_a_killed_run_goes_on_bit_for_bit(
    text_file: Path, tmp_path: Path
) -> None:
    overrides = arguments(text_file, tmp_path / "cache", "batch_topk")
    one, whole, cut = (tmp_path / name for name in ("one", "whole", "cut"))
    sharded = [*overrides, "trainer.devices=2", "trainer.strategy=model_parallel"]
    results = perform(
        [
            {"overrides": overrides, "run_dir": str(one)},
            {"overrides": sharded, "run_dir": str(whole), "ranks": 2},
            {"overrides": sharded, "run_dir": str(cut), "ranks": 2, "victim": 0, "kill_after_checkpoint": 0.05},
            {"run_dir": str(cut), "ranks": 2, "resume": True},
        ]
    )
    assert [r["status"] for r in results] == [0, [0, 0], [-signal.SIGKILL, 75], [0, 0]], [
        r.get("words") for r in results
    ]
    first, second, third = (load_file(run / "export" / "sae.safetensors") for run in (one, whole, cut))
    for name, value in first.items():
        assert_close(second[name], value)
        assert torch.equal(third[name], second[name]), name
    figures = [json.loads((run / "metrics.json").read_text())["heldout"] for run in (one, whole)]
    assert figures[1] == pytest.approx(figures[0], rel=1e-5, abs=1e-6)
    logged, own = scalars_of(one), scalars_of(whole)
    for tag, values in logged.items():
        if not tag.startswith("throughput/tokens_per_s"):
            assert own[tag] == pytest.approx(values, rel=1e-4, abs=1e-5), tag
    # Each process has its own features, and both parts of a checkpoint are needed.
    checkpoint = sorted((whole / "checkpoints").glob("step-*.ckpt"))[-1]
    part = part_path(checkpoint, 1)
    assert torch.load(part, weights_only=True)["state_dict"]["lanes.sae.sae.W_dec"].shape[0] == 32
    assert damage(checkpoint) is None
    part.write_bytes(part.read_bytes()[:-1])
    assert "torn" in (damage(checkpoint) or "")

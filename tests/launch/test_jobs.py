"""Jobs as their folders show them; overrides of a queued job; the argument that starts it; what Slurm's nodes say."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from sae_lightning.core import UserError
from sae_lightning.launch import scheduler
from sae_lightning.launch.jobs import Job, as_table, find_jobs, job_table
from sae_lightning.launch.overrides import absolute, assign, merged
from sae_lightning.launch.scheduler import State


def make_job(sweep: Path, number: int, job_id: str | None, **record: Any) -> Job:
    run_dir = sweep / str(number)
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text("tokens: 1\n")
    job = Job(run_dir, {"job_id": job_id, "overrides": [], "source": str(sweep / "source"), "logs": []} | record)
    job.save()
    return job


def test_jobs_are_found_below_a_folder_in_the_order_of_their_ids(tmp_path: Path) -> None:
    for number, job_id in enumerate(["12_10", "12_9", "3", None]):
        make_job(tmp_path / "a" / "sweep", number, job_id)
    make_job(tmp_path / "sweep" / "source", 0, "99")  # a frozen source holds no runs
    assert [job.id for job in find_jobs([tmp_path, tmp_path / "a"])] == ["-", "3", "12_9", "12_10"]
    assert find_jobs([tmp_path / "nothing"]) == []


@pytest.mark.parametrize("text", ["", "[]", "{", '{"job_id": "1"}'])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    make_job(tmp_path, 0, "1")
    (tmp_path / "0" / "job.json").write_text(text)
    with pytest.raises(UserError, match=r"0/job\.json: is no readable record"):
        find_jobs([tmp_path])


def test_the_state_is_slurm_s_while_it_remembers_then_the_run_folder_s(tmp_path: Path) -> None:
    sweep = str(tmp_path)
    job = make_job(tmp_path, 0, "7")
    assert job.state({"7": State("7", "RUNNING", sweep=sweep)}).name == "RUNNING"
    assert job.state({"7": State("7", "FAILED", sweep=sweep)}).name == "FAILED"
    # Ids begin again on another cluster: another sweep's job of this id says nothing of ours.
    assert job.state({"7": State("7", "RUNNING", sweep="/another")}).name == "ENDED"
    assert job.state({}).name == "ENDED"
    job.record["cancelled"] = "now"
    assert job.state({}).name == "CANCELLED"
    (job.run_dir / "metrics.json").write_text("{}")
    assert job.state({}).name == "COMPLETED"
    assert job.state({"7": State("7", "CANCELLED", sweep=sweep)}).name == "COMPLETED"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"step": 5, "total_steps": 20, "fvu": 0.12345678, "l0": 32.0}', "5/20 fvu 0.1235 l0 32"),
        ('{"step": 5, "total_steps": 20, "fvu": null}', "5/20"),
        ('{"step": 5', "-"),
        ("[]", "-"),
        (None, "-"),
    ],
)
def test_progress_is_read_from_the_run_folder(tmp_path: Path, text: str | None, shown: str) -> None:
    job = make_job(tmp_path, 0, "7")
    if text is not None:
        (job.run_dir / "progress.json").write_text(text)
    assert job.progress() == shown
    assert job_table([job], {}).splitlines()[1].startswith("7    ENDED  without metrics.json")


def test_why_a_run_ended_is_its_last_error_line(tmp_path: Path) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    job = make_job(tmp_path, 0, "7", logs=[str(out), str(err)])
    assert job.why() == ""
    out.write_text("some output\n")
    assert job.why() == "some output"
    err.write_text("a line\nerror: sae.k=0: too small; raise it\nTraceback\nRuntimeError: exit code 2\n\n")
    assert job.why() == "sae.k=0: too small; raise it"


def test_a_run_that_was_never_submitted_is_taken_away_and_a_user_s_files_stay(tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, number, None) for number in (0, 1)]
    (jobs[1].run_dir / "notes.txt").write_text("mine")
    for job in jobs:
        job.remove()
    assert not jobs[0].run_dir.exists()
    assert [p.name for p in jobs[1].run_dir.iterdir()] == ["notes.txt"]


def test_a_table_is_aligned_and_has_no_trailing_blanks() -> None:
    assert as_table(["A", "LONG"], [["wide", "x"], ["y", ""]]) == "A     LONG\nwide  x\ny"


def test_new_overrides_take_the_places_of_old_ones() -> None:
    assert merged(["model=topk", "sae.k=8", "+x=1"], ["sae.k=16", "seed=2", "~x"]) == [
        "model=topk",
        "sae.k=16",
        "~x",
        "seed=2",
    ]
    for settled in ("resume=a", "paths.run_dir=x", "hydra.launcher.gpus=2", "hydra/launcher=basic", "trial=null"):
        with pytest.raises(UserError, match="is settled at submission"):
            merged([], [settled])
    with pytest.raises(UserError, match="write key=value"):
        merged([], ["sae.k"])


def test_a_path_typed_elsewhere_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.npy").touch()
    assert absolute("data.path=rows.npy") == f"data.path='{tmp_path / 'rows.npy'}'"
    assert absolute("data.path=none.npy") == "data.path=none.npy"
    assert absolute("name=rows.npy") == "name=rows.npy"


@given(st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs"), exclude_characters="$"), min_size=1))
@example("a\\'b")
@example("ends with \\")
@example("it's, [a] {b}: (c) = d")
def test_hydra_reads_the_folder_of_a_job_as_it_is(path: str) -> None:
    assert OverridesParser.create().parse_override(assign("resume", "/" + path)).value() == "/" + path


def test_gpus_are_counted_from_what_slurm_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    line = (
        "NodeName={0} CPUAlloc=3 CPUTot=16 Gres={1} GresUsed={2} OS=Linux 6.1 #1 SMP State=MIXED+DRAIN "
        "RealMemory=65536 AllocMem=16384 Partitions=a,b"
    )
    printed = [
        line.format("n1", "gpu:a100:4(S:0-1),shard:8", "gpu:a100:3(IDX:0-2),shard:0(0/8,0/8)"),
        line.format("n2", "gpu:2", "gpu:0"),
        line.format("n3", "(null)", "(null)"),
        line.format("n4", "gpu:a100:2,gpu:h200:1", "gpu:a100:1(IDX:0),gpu:h200:1(IDX:2)"),
    ]
    monkeypatch.setattr(scheduler, "call", lambda *words, **_: "\n".join(printed))
    rows = scheduler.nodes()
    assert [row["gpus"] for row in rows] == ["3/4", "0/2", "0/0", "2/3"]
    assert [row["accelerators"] for row in rows] == ["gpu:a100:4,shard:8", "gpu:2", "none", "gpu:a100:2,gpu:h200:1"]
    assert (rows[0]["cpus"], rows[0]["memory GiB"], rows[0]["state"]) == ("3/16", "16/64", "MIXED+DRAIN")


def test_a_path_with_the_separator_in_it_survives_squeue(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["1_0|RUNNING|None|0:01|n1|sae_lightning sweep /a|b", "2|PENDING|Priority|0:00||another program's"]
    monkeypatch.setattr(scheduler, "call", lambda *words, **_: "\n".join(lines))
    assert scheduler.states() == {"1_0": State("1_0", "RUNNING", "None", "0:01", "n1", "/a|b")}


def test_the_record_is_plain_json(tmp_path: Path) -> None:
    job = make_job(tmp_path, 0, "7")
    assert json.loads((job.run_dir / "job.json").read_text()) == Job.load(job.run_dir).record

"""Records of runs and banks, wherever they lie; runs without a result are counted, never mixed in."""

import json
from pathlib import Path

import pytest

from sae_lightning.core import UserError
from sae_lightning.studies.scaling import collect
from tests.studies.scaling.planted_runs import record, write_run


def test_runs_and_banks_are_found_at_any_depth_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for job in (10, 9, 0):
        write_run(tmp_path / "sweep" / str(job), record(fvu=job / 100), config={"seed": job})
    write_run(tmp_path / "bank", record(lane="k32"), record(lane="k16"), config={"seed": 1})
    found = collect([tmp_path])
    assert [(r.run_dir, r.lane) for r in found.records] == [
        ("bank", "k16"), ("bank", "k32"), ("sweep/0", "sae"), ("sweep/9", "sae"), ("sweep/10", "sae"),
    ]  # fmt: skip
    assert found.missing == []
    assert [r["fvu"] for r in found.rows][2:] == [0.0, 0.09, 0.1]
    assert {r["run_dir"] for r in found.rows} == {"bank", "sweep/0", "sweep/9", "sweep/10"}  # not the record's own


def test_a_lane_has_its_own_settings_and_a_run_without_a_config_none(tmp_path: Path) -> None:
    bank = write_run(tmp_path / "bank", record(lane="a"), record(lane="b"), config={"optimizer": {"clip": 1.0}})
    (bank / "lanes" / "b" / "config.yaml").write_text("optimizer: {clip: 2.0}\n")
    write_run(tmp_path / "loose", record(), record())  # two records of one name: both are results
    found = collect([tmp_path])
    assert [r.settings for r in found.records] == [{"optimizer.clip": 1.0}, {"optimizer.clip": 2.0}, {}, {}]
    assert found.differing() == ["optimizer.clip"]


def test_only_settings_that_differ_and_are_the_users_own_are_named(tmp_path: Path) -> None:
    for i, (name, rate, mode) in enumerate([("topk", None, "rms"), ("topk", None, "none"), ("batch", 0.05, "none")]):
        config = {
            "seed": i, "name": f"run{i}", "paths": {"run_dir": f"/x/{i}"}, "tokens": 5,
            "sae": {"d_sae": 2**i, "rate": rate}, "normalise": {"mode": mode}, "trial": {"number": i},
            **({"added_later": True} if i == 2 else {}),
        }  # fmt: skip
        write_run(tmp_path / str(i), record(architecture=name), config=config)
    assert collect([tmp_path]).differing() == ["normalise.mode"]


def test_what_has_no_result_is_listed_with_its_reason(tmp_path: Path) -> None:
    write_run(tmp_path / "good", record(), config={})
    write_run(tmp_path / "killed", config={"seed": 1})
    write_run(tmp_path / "half", record(), config={}, done=False)  # records, but not yet metrics.json
    write_run(tmp_path / "pruned", config={}).joinpath("pruned.json").write_text("{}")
    write_run(tmp_path / "bank", record(lane="a"), {"lane": "b", "failed": "loss is NaN at step 3"}, config={})
    write_run(tmp_path / "nan", record() | {"fvu": None}, config={})
    write_run(tmp_path / "torn", record(), config={})
    with (tmp_path / "torn" / "records.jsonl").open("a") as file:
        file.write('{"lane": "x", "fv\n[1]\n\n')
    found = collect([tmp_path])
    assert [(r.run_dir, r.lane) for r in found.records] == [("bank", "a"), ("good", "sae"), ("torn", "sae")]
    assert [(m.run_dir, m.kind) for m in found.missing] == [
        ("bank", "failed"), ("half", "unfinished"), ("killed", "unfinished"), ("nan", "failed"), ("pruned", "pruned"),
        ("torn", "unreadable"), ("torn", "unreadable"),
    ]  # fmt: skip
    assert found.missing[0].reason == "loss is NaN at step 3"


def test_frozen_sources_and_checkpoints_are_no_runs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "0", record(), config={})
    for folder in (run / "checkpoints" / "c", tmp_path / "source" / "conf", run / "lanes" / "x", tmp_path / ".hydra"):
        write_run(folder, config={"a": 1})
    found = collect([tmp_path])
    assert len(found.records) == 1
    assert found.missing == []


def test_several_folders_are_one_collection_and_overlap_counts_once(tmp_path: Path) -> None:
    for name in ("a/0", "b/0"):
        write_run(tmp_path / name, record(), config={})
    found = collect([tmp_path / "a", tmp_path / "b", tmp_path / "a" / "0"])
    assert [r.run_dir for r in found.records] == ["a/0", "b/0"]


def test_values_that_are_no_numbers_are_none(tmp_path: Path) -> None:
    write_run(tmp_path, record(l0=True, dead="0.5", kl=None))
    text = (tmp_path / "records.jsonl").read_text()
    assert json.loads(text)["l0"] is True
    (one,) = collect([tmp_path]).records
    assert [one.number(name) for name in ("l0", "dead", "kl", "absent", "fvu")] == [None, None, None, None, 0.1]


def test_a_folder_that_is_missing_or_holds_no_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"no finished run has a records\.jsonl in it; give"):
        collect([tmp_path])
    write_run(tmp_path / "killed", config={"seed": 1})
    with pytest.raises(UserError, match="1 there failed or did not finish"):
        collect([tmp_path])


def test_lanes_of_an_unfinished_bank_that_were_finished_alone_count(tmp_path: Path) -> None:
    bank = tmp_path / "bank"
    for lane in ("done", "open"):
        (bank / "lanes" / lane).mkdir(parents=True)
        (bank / "lanes" / lane / "config.yaml").write_text("tokens: 5\n")
    (bank / "config.yaml").write_text("tokens: 5\n")
    done = bank / "lanes" / "done"
    (done / "records.jsonl").write_text(
        json.dumps({"lane": "sae", "architecture": "topk", "fvu": 0.5, "l0": 3.0}) + "\n"
    )
    (done / "metrics.json").write_text("{}")
    found = collect([tmp_path])
    assert [record.run_dir for record in found.records] == ["bank/lanes/done"]
    assert [(missing.run_dir, missing.kind) for missing in found.missing] == [("bank/lanes/open", "unfinished")]


def test_a_run_that_failed_before_it_began_is_told_with_its_reason(tmp_path: Path) -> None:
    good, bad = tmp_path / "0", tmp_path / "1"
    good.mkdir()
    bad.mkdir()
    (good / "records.jsonl").write_text(
        json.dumps({"lane": "sae", "architecture": "topk", "fvu": 0.5, "l0": 3.0}) + "\n"
    )
    (bad / "failed.json").write_text(json.dumps({"reason": "sae.k=400: must be at most 64"}))
    found = collect([tmp_path])
    assert len(found.records) == 1
    assert [(m.run_dir, m.kind, m.reason) for m in found.missing] == [("1", "failed", "sae.k=400: must be at most 64")]

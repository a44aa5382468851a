"""The page of a sweep stands alone, shows every run, escapes what runs say, and its files are what they claim."""

import csv
import re
from pathlib import Path

import pytest

from sae_lightning.reports.sweep_report import write_sweep_report
from sae_lightning.studies.scaling import collect, scaling_laws
from sae_lightning.studies.scaling.fronts import L0_FVU
from tests.reports.reader import Reader
from tests.studies.scaling.planted_runs import joint_runs, record, write_run

EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    root = tmp_path_factory.mktemp("sweep")
    runs = joint_runs(0)
    for i, one in enumerate(runs):
        config = {"normalise": {"mode": EVIL if i % 2 else "rms"}}
        write_run(root / str(i), one | {"lr": 1e-3 * (1 + i % 2), "dead": i / 100}, config=config)
    write_run(root / "bank", record(architecture=EVIL, lane="../" + EVIL), {"lane": "b", "failed": EVIL}, config={})
    collection = collect([root])
    out = root / "report"
    write_sweep_report(out, EVIL, collection, scaling_laws(collection, draws=100), L0_FVU)
    return out, len(runs) + 1


def test_the_page_needs_nothing_beside_it_and_escapes_what_runs_say(report: tuple[Path, int]) -> None:
    page = (report[0] / "sweep.html").read_text()
    reader = Reader(page)
    assert reader.open == []
    assert reader.tags.count("script") == 1
    assert EVIL not in page.replace(page[page.index("<script>") : page.index("</script>")], "")
    assert reader.text.count(EVIL) >= 4  # title, setting, architecture, reason: shown as text
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert "http" not in page
    assert str(report[0].parent) not in page


def test_the_page_says_what_was_fitted_and_what_was_not(report: tuple[Path, int]) -> None:
    text = Reader((report[0] / "sweep.html").read_text()).text
    assert "37 trained SAEs; 1 without a result" in text
    assert re.search(r"b_n = -0\.\d+ \[-0\.\d+, -?0\.\d+\]", text)
    assert "too few points: 6, at least 8 are needed" in text
    assert "hypervolume" in text
    assert "reference point" in text


def test_figures_are_pictures_and_every_law_has_one(report: tuple[Path, int]) -> None:
    names = {path.name for path in (report[0] / "figures").iterdir()}
    assert {
        "front_l0_fvu.png",
        "front_l0_delta_ce.png",
        "dead_features.png",
        "law_L_N_topk.png",
        "law_L_N_k_topk.png",
    } <= names
    for path in (report[0] / "figures").iterdir():
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert path.stat().st_size > 5000


def test_the_table_has_every_run_and_marks_the_fronts(report: tuple[Path, int]) -> None:
    rows = list(csv.DictReader((report[0] / "sweep.csv").open()))
    assert len(rows) == report[1]
    assert {row["normalise.mode"] for row in rows} == {EVIL, "rms", ""}
    assert "tokens" not in rows[0]  # the same in every run
    topk = [row for row in rows if row["architecture"] == "topk"]
    for row in topk:
        l0, fvu = float(row["l0"]), float(row["fvu"])
        beaten = any(
            (float(o["l0"]), float(o["fvu"])) != (l0, fvu) and float(o["l0"]) <= l0 and float(o["fvu"]) <= fvu
            for o in topk
        )
        assert row["on_l0_fvu"] == str(int(not beaten))


def test_hparams_have_a_session_a_run_inside_a_folder_of_their_own(report: tuple[Path, int]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    home = report[0] / "tensorboard" / "sweep"
    sessions = list(home.rglob("events.out.tfevents.*"))
    assert len(sessions) == report[1]
    assert not list(report[0].parent.rglob("alert*"))
    events = EventAccumulator(str(home / "0" / "sae"))
    events.Reload()
    assert "final/fvu" in events.Tags()["scalars"]
    assert events.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"


def test_a_second_report_takes_the_place_of_the_first(tmp_path: Path) -> None:
    write_run(tmp_path, record(), config={})
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.own").write_text("a run's own curves")
    for _ in range(2):
        collection = collect([tmp_path])
        write_sweep_report(tmp_path, "one", collection, scaling_laws(collection, draws=100), L0_FVU)
    assert len(list((tmp_path / "tensorboard" / "sweep").rglob("events*"))) == 1
    assert (tmp_path / "tensorboard" / "events.out.tfevents.own").is_file()


def test_long_names_leave_room_for_the_axes(tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn) -> None:
    for i in range(2):
        name = f"/a/very/long/path/{'x' * 150}/{i}.npy"
        write_run(tmp_path / str(i), record(lm=None, sites=None), config={"data": {"path": name, "cache": i}})
    collection = collect([tmp_path])
    write_sweep_report(tmp_path, "long", collection, scaling_laws(collection, draws=100), L0_FVU)
    assert not [w for w in recwarn if "layout" in str(w.message)]
    page = (tmp_path / "sweep.html").read_text()
    assert "x" * 150 in page  # whole in the tables
    assert (
        "data.cache" not in Reader(page).text.split("All runs")[0]
    )  # how rows are read does not part what is compared

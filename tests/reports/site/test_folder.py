"""A report is whole or not there, and replaces nothing but a report."""

from pathlib import Path

import pytest

from sae_lightning.core import UserError
from sae_lightning.reports.site.folder import MARK, report_folder


def write(out: Path, text: str, *more: str) -> None:
    with report_folder(out) as folder:
        for name in ("index.html", *more):
            (folder / name).write_text(text)
        (folder / "data").mkdir()


def left(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


def test_a_report_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "report"
    with report_folder(out) as folder:
        (folder / "index.html").write_text("new")
        assert not out.exists()
    assert (out / "index.html").read_text() == "new"
    assert left(tmp_path) == ["report"]


def test_an_earlier_report_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "report"
    write(out, "old")

    def fail() -> None:
        with report_folder(out) as folder:
            (folder / "index.html").write_text("half")
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fail()
    assert (out / "index.html").read_text() == "old"
    write(out, "new")
    assert (out / "index.html").read_text() == "new"
    assert left(tmp_path) == ["report"]


def test_what_somebody_else_put_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "report"
    write(out, "old", "gone.html")
    (out / "my-notes.json").write_text("{}")
    write(out, "new")
    assert left(out) == sorted(["data", "index.html", "my-notes.json", MARK])


def test_an_empty_folder_is_taken_and_anything_else_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "new")
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    (tmp_path / "full" / MARK).write_text('{"format": "something else", "files": []}')
    for name, rule in (("file", "is a file"), ("full", "holds something that is no report")):
        with pytest.raises(UserError, match=rule):
            write(tmp_path / name, "new")
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"


def test_a_run_killed_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "report"
    write(out, "old")
    (out / "mine.txt").write_text("mine")
    out.rename(tmp_path / ".report.old")  # as it is between the two renames
    (tmp_path / ".report.partial").mkdir()
    write(out, "new")
    assert (out / "mine.txt").read_text() == "mine"
    assert (out / "index.html").read_text() == "new"
    assert left(tmp_path) == ["report"]

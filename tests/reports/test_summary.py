"""The table at the end: every metric, its value, its meaning, and where the files are."""

from pathlib import Path

import pytest

from sae_lightning.reports import show_summary
from sae_lightning.studies.evaluation.heldout import HELDOUT_KEYS


def test_values_and_paths_are_shown_and_what_was_not_measured_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("/a/rather/long/path/with_[brackets]") / ("x" * 100) / "export"
    values = {"fvu": 0.123456, "l0": 32.0, "ce_clean": None}
    intervals = {"fvu": [0.12, 0.1299999], "l0": None, "ce_clean": None}
    show_summary(values, {"run folder": Path("/runs/a"), "export": path}, intervals)
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    (fvu,) = [line for line in lines if " fvu " in line]
    assert "0.1235" in fvu
    assert "[0.1200, 0.1300]" in fvu
    (l0,) = [line for line in lines if " l0 " in line]
    assert "32.0000" in l0
    (ce,) = [line for line in lines if "ce_clean" in line]
    assert " - " in ce
    # Paths stand on one line as they are, so that they can be copied.
    assert f"export       {path}" in lines
    assert "run folder   /runs/a" in lines


def test_it_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    show_summary(dict.fromkeys(HELDOUT_KEYS, 0.5), {}, {name: [0.4, 0.6] for name in HELDOUT_KEYS})
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 60
    assert sum("0.5000" in line for line in lines) == len(HELDOUT_KEYS)

"""Results: one line each, never measured twice, a failure kept as a line; Markdown."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks.process import MeasuringFailed
from experiments.benchmarks.results import Results, markdown

KEY = ("peer", "round")


def never() -> dict[str, Any]:
    raise AssertionError("measured again")


def failing() -> dict[str, Any]:
    raise MeasuringFailed("exit 1: ValueError: no")


def test_what_is_there_is_not_measured_again_by_another_process_either(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "steps.jsonl"
    entry = {"peer": "ours", "round": 0}
    line = Results(path, KEY).measure(entry, lambda: {"seconds": 2.5})
    assert line == {"seconds": 2.5, **entry}
    again = Results(path, KEY)
    assert again.measure(entry, never) == line
    again.measure({"peer": "ours", "round": 1}, lambda: {"seconds": 3.0})
    assert [json.loads(text)["seconds"] for text in path.read_text().splitlines()] == [2.5, 3.0]


def test_a_failure_is_a_line_and_not_tried_in_later_rounds(tmp_path: Path) -> None:
    results = Results(tmp_path / "steps.jsonl", KEY)
    line = results.measure({"peer": "theirs", "round": 0}, failing)
    assert line["error"] == "exit 1: ValueError: no"
    assert results.failed({"peer": "theirs", "round": 3})
    assert not results.failed({"peer": "ours", "round": 0})
    assert Results(results.path, KEY).failed({"peer": "theirs", "round": 1})


def test_other_errors_are_no_results(tmp_path: Path) -> None:
    results = Results(tmp_path / "steps.jsonl", KEY)
    with pytest.raises(AssertionError, match="measured again"):
        results.measure({"peer": "ours", "round": 0}, never)
    assert not results.path.exists()


def test_markdown() -> None:
    text = markdown(("", "s"), [["ours", 1.5], ["theirs", None]])
    assert text.splitlines() == ["|  | s |", "| --- | --- |", "| ours | 1.5 |", "| theirs | - |"]
    with pytest.raises(ValueError, match="2 cells"):
        markdown(("", "s"), [["ours"]])

"""The table of an evaluation: every figure with its interval and tokens; several SAEs side by side."""

import pytest

from sae_lightning.reports import show_evaluation
from tests.reports.example_evaluation import VALUES, evaluation


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def test_one_sae(capsys: pytest.CaptureFixture[str]) -> None:
    show_evaluation(evaluation())
    shown = lines(capsys)
    assert "Evaluation of sae 0" in shown[0]
    (fvu,) = [line for line in shown if line.startswith("│ fvu ")]
    for part in ("0.231", "[0.2264, 0.237]", "131,072", "fraction of variance unexplained"):
        assert part in fvu
    for study, values in VALUES.items():
        assert any(line.startswith(f"│ {study} ") for line in shown)
        for name in values:
            assert any(f"│ {name} " in line for line in shown)
    (undefined,) = [line for line in shown if line.startswith("│ shrinkage ")]
    assert " - │" in undefined
    assert shown[-1] == "ablation: sampled 20 of 3,921 features"


def test_several_saes_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    show_evaluation(evaluation(3))
    shown = lines(capsys)
    (fvu,) = [line for line in shown if line.startswith("│ fvu ")]
    assert fvu.index("0.231 [0.2264, 0.237] best") < fvu.index("0.2426 ") < fvu.index("0.2541 ")
    (cosine,) = [line for line in shown if line.startswith("│ cosine ")]
    assert cosine.count("≈ best") == 3
    (l0,) = [line for line in shown if line.startswith("│ l0 ")]
    assert "best" not in l0  # fewer is not better
    assert "sae 2, ablation: sampled 20 of 3,921 features" in shown
    (matched,) = [line for line in shown if "consistency_cosine/sae 0 ~ sae 1" in line]
    assert " 0.61 " in matched
    assert "1 for a permuted copy" in matched


def test_names_are_text_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show_evaluation(evaluation(2, "[red]x[/bold]"))
    assert any("[red]x[/bold]" in line for line in lines(capsys))


def test_it_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sae_lightning.reports.evaluation_table._LOG_WIDTH", 100)
    show_evaluation(evaluation())
    assert max(len(line) for line in lines(capsys)) <= 100

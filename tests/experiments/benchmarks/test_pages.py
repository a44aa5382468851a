"""The pages of the other benchmarks, and the arguments that they refuse."""

import sys
from typing import Any

import pytest

from experiments.benchmarks import ceilings, data_loading, end_to_end, startup, table

WHERE = {"where": "a machine"}


def test_ceilings_tell_what_the_encoder_s_product_allows() -> None:
    lines: list[dict[str, Any]] = [
        {"what": "encoder product", "dtype": "float32", "shape": [2048, 768, 16384], "seconds": 0.5}
        | {"gflop_per_s": 103.1, "activations_per_s": 4096},
        {"what": "copy", "dtype": "float32", "shape": [1000], "seconds": 0.25, "gb_per_s": 12.34},
    ]
    page = ceilings.render(lines, "a machine")
    assert "| encoder product | float32 | 2,048 x 768 x 16,384 | 0.5 | 103 GFLOP/s | 4,096 |" in page
    assert "| copy | float32 | 1,000 | 0.25 | 12.3 GB/s | - |" in page


def test_ceilings_of_small_shapes() -> None:
    from argparse import Namespace

    a = Namespace(device="cpu", steps=1, batch=4, d_in=3, d_sae=5, square=4, mib=1)
    lines = ceilings.measure(a)
    assert len(lines) == 7
    first = lines[0]
    assert first["gflop_per_s"] == pytest.approx(2 * 4 * 3 * 5 / first["seconds"] / 1e9)
    copied = next(line for line in lines if line["what"] == "copy")
    assert copied["gb_per_s"] == pytest.approx(2 * 2**20 / copied["seconds"] / 1e9)


def both(peer: str, number: int, rate: float) -> dict[str, Any]:
    shape = {"model": "topk", "d_sae": 64, "k": 4, "batch": 16, "layer": 1, "context": 8, "threads": 1}
    return {**WHERE, **shape, "peer": peer, "round": number, "tokens_per_s": rate, "peak_mib": 100 + number}


def test_end_to_end_ratios_are_taken_within_rounds() -> None:
    ours, lm = end_to_end.OURS, end_to_end.LM
    lines = [both(ours, 0, 100), both(lm, 0, 200), both(ours, 1, 300), both(lm, 1, 300), both(ours, 2, 90)]
    page = end_to_end.render(lines)
    assert "| sae_lightning | 100 | 101 | 1 |" in page
    assert "| lm alone | 250 | 100 | 0.75 (0.50-1.00) |" in page


def test_end_to_end_shows_what_does_not_run() -> None:
    broken = {k: v for k, v in both("saelens", 0, 1).items() if k not in ("tokens_per_s", "peak_mib")}
    page = end_to_end.render([both(end_to_end.OURS, 0, 100), {**broken, "error": "exit 1: no model"}])
    assert "| saelens | - | - | does not run: exit 1: no model |" in page


def test_startup_shows_medians() -> None:
    lines = [{**WHERE, "what": "train --help", "round": n, "seconds": s} for n, s in enumerate((1.0, 3.0, 1.5))]
    page = startup.render([*lines, {**WHERE, "what": "import x", "round": 0, "error": "exit 1: no x"}])
    assert "| train --help | 1.50 | 1.00-3.00 | 3 |" in page
    assert "| import x | - | exit 1: no x | 0 |" in page


def test_data_loading_shows_medians_and_bytes_where_there_are_any() -> None:
    size = {**WHERE, "rows": 10, "d_in": 4, "documents": 2}
    lines = [{**size, "what": "rows", "rows_per_s": r, "gb_per_s": r / 1000} for r in (1000.0, 4000.0, 2000.0)]
    lines += [{**size, "what": "tokens", "rows_per_s": 5.0}, {**size, "what": "none", "error": "exit 2: no"}]
    page = data_loading.render(lines)
    assert "| rows | 2,000 | 1,000-4,000 | 2.00 |" in page
    assert "| tokens | 5 | 5-5 | - |" in page
    assert "does not run: exit 2: no" in page


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        (table, ["--out", "x", "--rounds", "0"], "--rounds 0: must be at least 1"),
        (table, ["--out", "x", "--k", "0"], "--k 0: must be at least 1"),
        (table, [], "--out"),
        (end_to_end, ["--batch", "9000", "--out", "x"], "--batch 9000: must be at most 8192"),
        (end_to_end, ["--refills", "0", "--out", "x"], "--refills 0: must be at least 1"),
        (end_to_end, [], "--out: is needed"),
        (data_loading, ["--rows", "100", "--out", "x"], "--rows 100: must be at least 16384"),
        (data_loading, [], "--out: is needed"),
        (startup, ["--rounds", "0", "--out", "x"], "--rounds 0: must be at least 1"),
    ],
)
def test_arguments_that_cannot_be_end_before_anything_is_made(
    module: Any, arguments: list[str], said: str, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        module.main()
    assert exit_info.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

"""Growth: medians of rounds, exponents from there, and the bound beside the memory."""

from typing import Any

import pytest

from experiments.benchmarks.growth import exponents, render, sweep_rows


def line(d_sae: int, number: int, seconds: float, **more: Any) -> dict[str, Any]:
    shape = {"where": "a machine", "along": "d_sae", "model": "topk", "d_in": 8, "d_sae": d_sae, "k": 4, "batch": 16}
    figures = {"seconds": seconds, "activations_per_s": 16 / seconds, "peak_mib": 600, "over_base_mib": d_sae / 1024}
    return {**shape, **figures, "dtype": "float32", "bound_mib": d_sae / 512, "round": number, **more}


# Flat up to 16,384 features and linear from there.
SECONDS = {4096: 1.0, 8192: 1.0, 16384: 1.0, 32768: 2.0, 65536: 4.0}
LINES = [line(d_sae, number, s * (number + 1)) for d_sae, s in SECONDS.items() for number in range(3)]


def test_points_are_medians_in_order() -> None:
    found = sweep_rows("d_sae", LINES[::-1])
    assert [row["d_sae"] for row in found] == [*SECONDS]
    assert [row["seconds"] for row in found] == [2 * s for s in SECONDS.values()]


def test_the_exponent_is_also_told_from_where_it_is_judged() -> None:
    said = exponents("d_sae", sweep_rows("d_sae", LINES))
    assert len(said) == 4
    assert said[2].startswith("time a step ~ d_sae^1.000")
    assert "16,384 to 65,536" in said[2]
    assert said[3].startswith("memory over imports ~ d_sae^1.000")
    assert exponents("d_sae", sweep_rows("d_sae", LINES[:3])) == []


def test_the_page_shows_the_share_of_the_bound_and_what_failed() -> None:
    broken = {k: v for k, v in line(262144, 0, 1.0).items() if k not in ("seconds", "bound_mib")}
    page = render([*LINES, {**broken, "error": "memory: needs more"}])
    assert "| 16,384 | 2 | 8 | 600 | 16 | 32 | 0.50 |" in page
    assert "d_sae 262,144: memory: needs more" in page


@pytest.mark.parametrize("along", ["batch", "k"])
def test_other_sweeps_have_one_range(along: str) -> None:
    lines = [line(64, 0, float(value), **{"along": along, along: value}) for value in (16, 32, 64)]
    said = exponents(along, sweep_rows(along, lines))
    assert len(said) == 2
    assert said[0].startswith(f"time a step ~ {along}^1.000")
    assert said[1].startswith(f"memory over imports ~ {along}^0.000")

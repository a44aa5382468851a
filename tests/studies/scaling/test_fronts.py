"""Fronts an architecture at a time, and areas that compare because they share a reference point."""

from pathlib import Path

import pytest

from sae_lightning.studies.scaling import collect, fronts
from sae_lightning.studies.scaling.fronts import L0_DELTA_CE, L0_FVU
from tests.studies.scaling.planted_runs import record, write_run


def test_a_front_for_each_architecture_and_areas_by_hand(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        record(architecture="a", l0=1.0, fvu=0.5),
        record(architecture="a", l0=3.0, fvu=0.25),
        record(architecture="a", l0=3.0, fvu=0.75),
        record(architecture="b", l0=2.0, fvu=0.5),
        record(architecture="b", l0=5.0, fvu=0.875),
    )
    a, b = fronts(collect([tmp_path]), L0_FVU)
    assert a.reference == b.reference == (5.0, 1.0)
    assert [r.number("fvu") for r in a.members] == [0.5, 0.25]
    assert a.area == pytest.approx((5 - 1) * 0.5 + (5 - 3) * 0.25)
    assert b.area == pytest.approx((5 - 2) * 0.5)


def test_no_front_without_the_metric(tmp_path: Path) -> None:
    write_run(tmp_path, record(delta_ce=None), record(architecture="b", delta_ce=None))
    assert fronts(collect([tmp_path]), L0_DELTA_CE) == []

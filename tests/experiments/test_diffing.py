"""The tables of experiments that read evaluations: figures of seeds, means and spreads."""

import pytest

from experiments.crosscoder_first_token import run as first_token
from experiments.diffing import run as diffing


def evaluation(value: float) -> dict:
    """Return an evaluation in which every figure is ``value``, but for one that is undefined."""
    studies: dict = {}
    for column, (study, figure, _) in diffing.FIGURES.items():
        estimates = studies.setdefault(study, {"estimates": {}})["estimates"]
        estimates[figure] = {"value": None if column == "overturned" else value}
    return {"saes": {name: {"studies": studies} for name in diffing.LANES}}


def test_a_row_is_the_mean_and_spread_over_seeds_and_a_dash_where_nothing_is_defined() -> None:
    found = [diffing.values(evaluation(value), "l1-2") for value in (0.1, 0.3)]
    row = diffing.summary(found)
    assert row["fvu"] == "0.200 ± 0.141"
    assert row["overturned"] == "-"
    assert diffing.summary(found[:1])["l0"] == "0.1"


def test_lanes_of_the_first_token_differ_in_what_they_say() -> None:
    lanes = first_token.lanes("first in", [0, 1])
    assert len(lanes) == 2 * (len(first_token.KINDS) + len(first_token.NORMS))
    assert len({tuple(own.items()) for own in lanes.values()}) == len(lanes)
    assert lanes["init0.12-s1"] == {"init.decoder_norm": 0.12, "seed": 1}
    assert not any(name.startswith("init") for name in first_token.lanes("outliers out", [0]))


def test_seeds_of_an_entry_are_averaged() -> None:
    rows = [
        {"trained on": mask, "lane": lane, "seed": seed, "fvu, first out": 0.2 + 0.2 * seed, "dead %": 1.0 * seed}
        for mask in ("first in", "first out")
        for lane in ("l1", "init0.12")
        for seed in (0, 1)
    ]
    first, second = first_token.tables(rows).split("\n\n")
    assert first.count("\n") == second.count("\n") == 3
    assert "| l1 | first in |" in first
    assert "| 0.3 |" in first
    assert "| init0.12 | first out | 0.5 | 0.3 |" in second


@pytest.mark.parametrize("mask", list(first_token.MASKS))
def test_every_condition_composes(mask: str) -> None:
    from sae_lightning import command
    from sae_lightning.config import validate

    config = validate(
        command.plain(command.compose("train", [*first_token.SETTINGS, *first_token.MASKS[mask], "seed=0"]))
    )
    assert config.data.mask_first_position == (mask != "first in")
    assert config.data.mask_norm_multiple == (10 if mask == "outliers out" else None)
    assert config.tokens > 0
    assert validate(command.plain(command.compose("train", diffing.SETTINGS))).data.kind == "synthetic"

"""The table of steps: who runs, in which order, and what is made of their lines."""

from typing import Any

import pytest

from experiments.benchmarks.peers.libraries import PEERS, names_for, widths
from experiments.benchmarks.shape import MODELS
from experiments.benchmarks.table import COLUMNS, OURS, configurations, entries, fastest, ratios, render, rows, turned


def line(peer: str, number: int, seconds: float, **more: Any) -> dict[str, Any]:
    shape = {"where": "a machine", "model": "topk", "d_in": 8, "d_sae": 64, "k": 4, "batch": 16, "threads": 1}
    shape |= {"device": "cpu", "dtype": "float32", "start": "k"}
    figures = {"seconds": seconds, "mean_seconds": 2 * seconds, "activations_per_s": 16 / seconds, "peak_mib": 10}
    return {**shape, **figures, "over_base_mib": 4, "l0": 4.0, "peer": peer, "round": number, **more}


LINES = [
    *(line(OURS, 0, 1.0), line("slow", 0, 4.0), line("fast", 0, 2.0)),
    *(line(OURS, 1, 2.0), line("slow", 1, 5.0), line("fast", 1, 1.0)),
    *(line(OURS, 2, 1.0), line("slow", 2, 3.0), line("fast", 2, 3.0)),
]
BROKEN = {**{k: v for k, v in line("broken", 0, 1.0).items() if "seconds" not in k}, "error": "exit 1: no sparse view"}


def test_ratios_are_taken_within_rounds() -> None:
    assert ratios(LINES, "slow") == [4.0, 2.5, 3.0]
    assert ratios(LINES, "fast") == [2.0, 0.5, 3.0]
    assert ratios([*LINES, line("late", 7, 1.0), BROKEN], "late") == []


def test_the_median_of_the_ratios_with_its_range_stands_beside_each_peer() -> None:
    found = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows([*LINES, BROKEN])}
    assert list(found) == [OURS, "fast", "slow", "broken"]
    assert found["slow"]["ours is faster by"] == "3.00 (2.50-4.00)"
    assert found["fast"]["s a step"] == "2"
    assert found[OURS]["ours is faster by"] == "1"
    assert found[OURS]["mean"] == "2"
    assert found["broken"]["ours is faster by"] == "does not run: exit 1: no sparse view"
    assert found["broken"]["s a step"] is None


def test_the_fastest_peer_is_the_one_with_the_lowest_ratio() -> None:
    assert fastest(LINES) == "Ours is 2.00 x the fastest peer (fast)."
    assert fastest([BROKEN, line(OURS, 0, 1.0)]) is None


def test_shapes_starts_and_machines_are_never_mixed() -> None:
    others = [line(OURS, 0, 9.0, **change) for change in ({"where": "another"}, {"d_sae": 128}, {"dtype": "bfloat16"})]
    page = render([*LINES, *others])
    assert page.count("| sae_lightning |") == 4
    assert page.count("Ours is") == 1
    assert "another" in page


def test_settings_of_ours_are_told() -> None:
    assert "trainer.encoder=float32" in render([line(OURS, 0, 1.0, settings=["trainer.encoder=float32"])])


def test_everybody_comes_first_once() -> None:
    names = ["a", "b", "c"]
    assert [turned(names, number)[0] for number in range(6)] == ["a", "b", "c"] * 2
    assert all(sorted(turned(names, number)) == names for number in range(6))


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_a_peer_and_every_peer_a_model_of_ours(model: str) -> None:
    assert entries(model, with_peers=False) == [OURS]
    assert len(entries(model, with_peers=True)) > 2
    assert set(names_for(model)) == {name for name, (models, _) in PEERS.items() if model in models}


def test_only_models_without_k_have_two_starts() -> None:
    assert configurations(["topk", "standard"], ["k", "dense"]) == [
        ("topk", "k"),
        ("standard", "k"),
        ("standard", "dense"),
    ]


def test_prefixes_are_those_of_our_matryoshka() -> None:
    """conf/model/matryoshka.yaml: shares of each group, the last one has the rest."""
    from omegaconf import OmegaConf

    from sae_lightning.command import conf_dir

    shares = OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / "matryoshka.yaml").sae.groups)
    assert isinstance(shares, list)
    ends = [sum(shares[: n + 1]) for n in range(len(shares))]
    assert widths(16384) == [round(16384 * end) for end in ends] + [16384]

"""One configuration: its arguments and the keys of its line."""

import argparse
import json

import pytest

from experiments.benchmarks.shape import arguments_of, check, record, step_parser

# Those of the line that the peers' first script printed.
KEYS = {"peer", "d_in", "d_sae", "k", "batch", "steps", "warmup", "threads", "device", "dtype"}
KEYS |= {"seconds", "activations_per_s", "peak_mib"}
SMALL = [
    "--d-in",
    "16",
    "--d-sae",
    "128",
    "--k",
    "4",
    "--batch",
    "32",
    "--steps",
    "4",
    "--warmup",
    "2",
    "--threads",
    "1",
]


def parsed(*arguments: str) -> argparse.Namespace:
    return step_parser(None, steps=20, warmup=5).parse_args(arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--k", "0"], "--k 0: must be at least 1"),
        (["--k", "64", "--d-sae", "64"], "--k 64: must be smaller than --d-sae 64"),
        (["--batch", "-1"], "--batch -1: must be at least 1"),
        (["--warmup", "0"], "--warmup 0: must be at least 1"),
        (["--steps", "0"], "--steps 0"),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_one_line(arguments, said, capsys) -> None:
    with pytest.raises(SystemExit) as exit_info:
        check(step_parser(None, steps=20, warmup=5), parsed(*arguments))
    assert exit_info.value.code == 2
    assert said in capsys.readouterr().err


def test_a_configuration_can_be_handed_to_another_process() -> None:
    a = parsed(*SMALL, "--model", "gated", "--start", "dense", "--dtype", "bfloat16")
    assert parsed(*arguments_of(a)) == a
    assert "--steps" not in arguments_of(a, without=("steps",))


def test_a_line_has_the_keys_of_the_peers_script_and_medians() -> None:
    line = record("x", parsed(*SMALL), [1.0, 2.0, 9.0], base_mib=10.4, peak_mib=30.0, l0=4.0)
    assert line.keys() >= KEYS
    assert (line["seconds"], line["mean_seconds"], line["activations_per_s"]) == (2.0, 4.0, 16)
    assert (line["peak_mib"], line["over_base_mib"], line["l0"]) == (30, 20, 4.0)
    assert json.loads(json.dumps(line)) == line

"""Read the results of a sweep: ``python -m sae_lightning.sweep RUNS_DIR...`` writes its page, tables and figures."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from sae_lightning import command
from sae_lightning.core.errors import UserError


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every command here does."""

    def error(self, message: str) -> NoReturn:
        command.fail(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m sae_lightning.sweep",
        description="Collect records.jsonl of every run under RUNS_DIR and write sweep.html, sweep.csv, pareto.csv, "
        "figures/ and TensorBoard HParams: Pareto fronts, dead features, scaling laws with intervals.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUNS_DIR", help="a folder with runs, banks or multiruns in it")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: the first RUNS_DIR)")
    parser.add_argument(
        "--objectives",
        metavar="NAME[:maximise],...",
        help="of pareto.csv (default: those of the sweep that made the runs, else l0,fvu)",
    )
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws an interval (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default 0)")
    return parser


def objectives_of(text: str) -> dict[str, str]:
    """Read ``l0,explained_variance:maximise``: a direction is minimise unless one is named."""
    from sae_lightning.studies.scaling.pareto import sign

    objectives = {}
    for part in text.split(","):
        name, _, direction = part.strip().partition(":")
        if not name:
            raise UserError(f"--objectives {text!r}: a name is missing; give names with commas between them")
        objectives[name] = direction or "minimise"
        sign(objectives[name])
    return objectives


def read_sweep(options: argparse.Namespace) -> None:
    """Collect, fit, write, and say what was written."""
    if options.draws < 100:
        raise UserError(f"--draws {options.draws}: an interval needs at least 100; give more")
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: must not be negative; give 0 or more")
    from sae_lightning.studies.scaling import collect, scaling_laws
    from sae_lightning.studies.scaling.fit import Fit
    from sae_lightning.studies.scaling.fronts import L0_FVU
    from sae_lightning.studies.scaling.pareto import load_objectives

    command.set_up_logging()
    given = objectives_of(options.objectives) if options.objectives else None
    collection = collect(options.runs)
    first = Path(options.runs[0]).expanduser().resolve()
    objectives = given or load_objectives(first) or L0_FVU
    numbers = sorted(
        {name for record in collection.records for name in record.values if record.number(name) is not None}
    )
    if unknown := [name for name in objectives if name not in numbers]:
        raise UserError(f"objective {unknown[0]}: no run has a number of that name; there are {', '.join(numbers)}")
    laws = scaling_laws(collection, draws=options.draws, seed=options.seed)
    from sae_lightning.reports.sweep_report import write_sweep_report

    out = Path(options.out).expanduser() if options.out else first
    written = write_sweep_report(out, first.name, collection, laws, objectives)
    fitted = sum(isinstance(law, Fit) for law in laws)
    command.say(
        f"{len(collection.records)} trained SAEs, {len(collection.missing)} without a result; "
        f"{fitted} scaling laws fitted, {len(laws) - fitted} not (the page says why)"
    )
    for name, path in written.items():
        command.say(f"{name:8} {path}")


def main() -> None:
    """Run the command: a user's mistake is one line and exit code 2."""
    try:
        read_sweep(_parser().parse_args())
    except UserError as error:
        command.fail(str(error))
    except OSError as error:
        command.fail_for_file(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()

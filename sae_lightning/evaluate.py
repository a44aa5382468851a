"""Measure SAEs on held-out data: ``python -m sae_lightning.evaluate sae=PATH``, ours or another library's."""

import datetime
import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sae_lightning import command
from sae_lightning.config import EvaluateConfig, validate
from sae_lightning.core.errors import UserError
from sae_lightning.core.files import check_writable, write_json

logger = logging.getLogger("sae_lightning.evaluate")


def evaluate(config: EvaluateConfig, out: Path, asked: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Measure, print the table, and write evaluation.json and evaluation.html; return what the former holds."""
    command.quiet_warnings()
    from sae_lightning.build import evaluation as build
    from sae_lightning.reports import describe_environment, show_evaluation, write_evaluation_html

    build.check_studies(config)
    # Whether it can be written shows before anything is measured; and what was measured shows, whatever can be written.
    existed = out.exists()
    check_writable(out)
    try:
        found = {**build.evaluate(config, asked), "environment": describe_environment()}
    except UserError:
        if not existed:
            out.rmdir()
        raise
    show_evaluation(found)
    write_json(out / "evaluation.json", found)
    write_evaluation_html(out / "evaluation.html", found)
    for name in ("evaluation.json", "evaluation.html"):
        command.say(str(out / name))
    return found


def out_folder(config: EvaluateConfig) -> Path:
    """Return where an evaluation is written: ``out``, the run's own folder, or a new one under outputs."""
    if config.out:
        return Path(config.out).expanduser()
    first = Path(config.paths[0]).expanduser()
    if len(config.paths) == 1 and (first / "config.yaml").is_file():
        return first / "evaluation"
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return Path("outputs") / "evaluations" / f"{stamp}_{first.resolve().name}"


def task(composed: DictConfig) -> None:
    """Evaluate what the command line says."""
    chosen = [o for o in HydraConfig.get().overrides.task if command.key_of(o) == "studies"]
    config = validate(command.plain(composed), EvaluateConfig)
    command.set_up_logging()
    out = out_folder(config)
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out}: is a file; name a folder")
    evaluate(config, out, frozenset(config.studies) if chosen else frozenset())


def main() -> None:
    """Run the command."""
    command.main("evaluate", task)


if __name__ == "__main__":
    main()

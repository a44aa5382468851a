"""Interpret features: ``python -m sae_lightning.interpret store=DIR`` has them explained and scores what is said."""

import json
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sae_lightning import command
from sae_lightning.config import InterpretConfig, validate
from sae_lightning.core.errors import UserError
from sae_lightning.core.files import atomic_path, write_json

# What this command writes before anything else, whatever ends it: a folder with one of them is its own.
_FILES = ("interpretation.json", "answers.jsonl", ".answers.jsonl.lock", "explanations.json")


def interpret(config: InterpretConfig, out: Path, asked: frozenset[str] = frozenset()) -> None:
    """Explain and score, print the figures, and write what was found into ``out``."""
    command.quiet_warnings()
    from sae_lightning.build.interpreting import check_parts, run
    from sae_lightning.reports.interpretation_page import write_interpretation_page
    from sae_lightning.reports.interpretation_table import show_interpretation

    check_out(out, str(config.store))
    said = run(config, out, check_parts(config, asked))
    said.explanations.save(out / "explanations.json")
    with atomic_path(out / "trials.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(trial) + "\n" for trial in said.trials), encoding="utf-8")
    write_interpretation_page(out / "index.html", said.json)
    write_json(out / "interpretation.json", said.json)
    show_interpretation(said.json)
    for name in ("explanations.json", "index.html", "interpretation.json"):
        command.say(str(out / name))


def check_out(out: Path, store: str) -> None:
    """Raise UserError where ``out`` lies in the store, is a file, or holds something that is no interpretation."""
    if out.resolve().is_relative_to(Path(store).expanduser().resolve()):
        raise UserError(f"out={out}: lies in the store {store}; give a folder of its own")
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out}: is a file; give a folder")
    if out.exists() and any(out.iterdir()) and not any((out / name).exists() for name in _FILES):
        raise UserError(f"out={out}: holds something that is no interpretation; give another folder")


def out_folder(config: InterpretConfig) -> Path:
    """Return where the interpretation goes: ``out``, or beside the store."""
    if config.out:
        return Path(config.out).expanduser()
    store = Path(str(config.store)).expanduser().resolve()
    return store.with_name(f"{store.name}_interpretation")


def task(composed: DictConfig) -> None:
    """Interpret what the command line says."""
    chosen = [o for o in HydraConfig.get().overrides.task if command.key_of(o) == "scorer"]
    config = validate(command.plain(composed), InterpretConfig)
    command.set_up_logging()
    interpret(config, out_folder(config), frozenset(config.scorer) if chosen else frozenset())


def main() -> None:
    """Run the command."""
    command.main("interpret", task)


if __name__ == "__main__":
    main()

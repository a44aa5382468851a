"""Steer features: ``python -m sae_lightning.steer store=DIR prompt="I am a" clamp={1234:10x}`` and how texts go on."""

import logging
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sae_lightning import command
from sae_lightning.config import SteerConfig, validate
from sae_lightning.core.errors import UserError
from sae_lightning.core.files import check_writable, write_json
from sae_lightning.core.overrides import with_quoted_texts

logger = logging.getLogger("sae_lightning.steer")


def steer(config: SteerConfig) -> dict[str, Any]:
    """Go on with the prompts, print the texts side by side, and write steering.json and steering.html into ``out``."""
    command.quiet_warnings()
    from sae_lightning.build import steering as build
    from sae_lightning.reports.steering_page import write_steering_page
    from sae_lightning.reports.steering_table import show_steering

    # A strength that is none shows before a model is loaded.
    build.edits_of(config)
    out = None if config.out is None else Path(config.out).expanduser()
    existed = out is not None and out.exists()
    if out is not None:
        if existed and not out.is_dir():
            raise UserError(f"out={out}: is a file; name a folder")
        check_writable(out)
    try:
        found = build.steer(config)
    except (UserError, KeyboardInterrupt):
        if out is not None and not existed:
            out.rmdir()
        raise
    show_steering(found)
    if out is not None:
        write_json(out / "steering.json", found, lists_on_a_line=True)
        write_steering_page(out / "steering.html", found)
        for name in ("steering.json", "steering.html"):
            command.say(str(out / name))
    return found


def task(composed: DictConfig) -> None:
    """Steer as the command line says."""
    config = validate(command.plain(composed), SteerConfig)
    command.set_up_logging()
    steer(config)


def main() -> None:
    """Run the command."""
    if not {"-m", "--multirun"} & set(sys.argv):
        sys.argv[1:] = with_quoted_texts(sys.argv[1:], ["prompt"], lists=True)
    command.main("steer", task)


if __name__ == "__main__":
    main()

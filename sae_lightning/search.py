"""Look for features: ``python -m sae_lightning.search store=DIR prompt="..."``, and five other ways."""

import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sae_lightning import command
from sae_lightning.config import SearchConfig, validate
from sae_lightning.core.errors import UserError
from sae_lightning.core.files import check_writable, write_json
from sae_lightning.core.overrides import with_quoted_texts

#: Settings whose value is a text, whatever is in it.
TEXTS = ("prompt", "attribute", "target", "against", "influence", "want", "concept")

logger = logging.getLogger("sae_lightning.search")


def search(config: SearchConfig) -> dict[str, Any]:
    """Search, print the table, and write search.json and search.html into ``out`` where that is given."""
    command.quiet_warnings()
    from sae_lightning.build import searching as build
    from sae_lightning.reports.search_page import write_search_html
    from sae_lightning.reports.search_table import show_search

    out = None if config.out is None else Path(config.out).expanduser()
    existed = out is not None and out.exists()
    if out is not None:
        if existed and not out.is_dir():
            raise UserError(f"out={out}: is a file; name a folder")
        if config.store is not None and out.resolve().is_relative_to(Path(config.store).expanduser().resolve()):
            raise UserError(f"out={out}: lies in the store {config.store}; give a folder of its own")
        check_writable(out)
    try:
        found = build.search(config)
    except BaseException:
        if out is not None and not existed:
            with suppress(OSError):  # another search may have written there meanwhile
                out.rmdir()
        raise
    show_search(found)
    if out is not None:
        write_json(out / "search.json", found)
        write_search_html(out / "search.html", found)
        for name in ("search.json", "search.html"):
            command.say(str(out / name))
    return found


def task(composed: DictConfig) -> None:
    """Search for what the command line says."""
    config = validate(command.plain(composed), SearchConfig)
    command.set_up_logging()
    search(config)


def main() -> None:
    """Run the command."""
    if not {"-m", "--multirun"} & set(sys.argv):
        sys.argv[1:] = with_quoted_texts(sys.argv[1:], TEXTS)
    command.main("search", task)


if __name__ == "__main__":
    main()

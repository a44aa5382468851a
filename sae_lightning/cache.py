"""Keep activations on disk before training, and look after them: ``python -m sae_lightning.cache``."""

import argparse
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from sae_lightning import command
from sae_lightning.config import validate
from sae_lightning.core.errors import UserError

if TYPE_CHECKING:
    from sae_lightning.activations.cache import Listed

ACTIONS = ("list", "verify", "prune")


def task(composed: DictConfig) -> None:
    """Build the caches that training with the same settings would read."""
    config = validate(command.plain(composed))
    no_text = config.data.kind in ("activations", "synthetic")
    if no_text or config.data.cache == "off":
        what = f"data={config.data.kind}" if no_text else "data.cache=off"
        raise UserError(f"{what}: leaves nothing to keep; give text, and data.cache=auto")
    command.set_up_logging()
    command.quiet_warnings()
    from sae_lightning.build import build_cache

    for cache in build_cache(config):
        rows = f"{cache.n_windows:,} windows, {cache.n_rows:,} tokens, {cache.manifest.n_bytes / 1e9:.3g} GB"
        command.say(f"{cache.folder}: {cache.manifest.key['site']}, {cache.manifest.facts['split']}, {rows}")


def look_after(arguments: list[str]) -> int:
    """Run ``list``, ``verify`` or ``prune``; return the exit code."""
    options = _parser().parse_args(arguments)
    from sae_lightning.activations.cache import catalogue, default_root, verify

    command.set_up_logging()
    root = Path(options.dir).expanduser() if options.dir else default_root()
    if not root.exists() and not options.dir:
        command.say(f"{root}: no activations are kept")
        return 0
    caches = catalogue(root)
    if options.action == "list":
        command.say(table(caches, root))
        return 0
    if options.action == "prune":
        return _prune(root, caches, options)
    problems = [problem for cache in caches for problem in verify(cache)]
    command.say("\n".join(problems) if problems else f"{root}: {len(caches)} caches, all whole")
    return 1 if problems else 0


def table(caches: "list[Listed]", root: Path) -> str:
    """Return the caches as a table: address, language model, site, text, tokens, size, last use."""
    rows = [("address", "lm", "site", "text", "windows", "tokens", "GB", "last used")]
    for cache in caches:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(cache.used))
        if (manifest := cache.manifest) is None:
            rows.append((cache.address, "?", "?", "unreadable or unfinished", "", "", f"{cache.bytes / 1e9:.3f}", used))
            continue
        facts, key = manifest.facts, manifest.key
        text = (
            f"{Path(facts['text']).parent.name}/{Path(facts['text']).name} {facts['split']} x {key['context_length']}"
        )
        counts = (f"{manifest.n_windows:,}", f"{manifest.n_rows:,}", f"{cache.bytes / 1e9:.3f}")
        rows.append((cache.address, f"{facts['lm']} {key['dtype']}", key["site"], text, *counts, used))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    total = sum(cache.bytes for cache in caches)
    return "\n".join([*lines, f"{len(caches)} caches, {total / 1e9:.3f} GB in {root}"])


def _prune(root: Path, caches: "list[Listed]", options: argparse.Namespace) -> int:
    from sae_lightning.activations.cache import choose, remove

    if not options.address and options.older_than is None and options.to_gb is None:
        raise UserError("prune: nothing says what may go; give addresses (see list), --older-than DAYS or --to-gb N")
    to_bytes = None if options.to_gb is None else int(options.to_gb * 1e9)
    chosen = choose(caches, options.address, older_than_days=options.older_than, to_bytes=to_bytes)
    if not chosen:
        command.say("nothing to remove")
        return 0
    command.say(table(chosen, root))
    if options.dry_run:
        return 0
    if not options.yes:
        if not sys.stdin.isatty():
            raise UserError(
                "prune: removes the caches above and there is no terminal to ask at; add --yes or --dry-run"
            )
        if input(f"remove {len(chosen)} caches? [y/N] ").strip().lower() not in ("y", "yes"):
            return 0
    command.say(f"removed {len(chosen)} caches, {remove(root, chosen) / 1e9:.3f} GB")
    return 0


def _at_least_0(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} must be a number of at least 0")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        command.fail(f"cache: {message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m sae_lightning.cache", description="Look after kept activations.")
    actions = parser.add_subparsers(dest="action", required=True, parser_class=_Parser)
    parts = {
        "list": actions.add_parser("list", help="what is there"),
        "verify": actions.add_parser("verify", help="read everything, name damaged shards; exit code 1 for any"),
        "prune": actions.add_parser("prune", help="remove caches"),
    }
    for part in parts.values():
        part.add_argument("--dir", metavar="ROOT", help="folder of the caches (data.cache_dir)")
    prune = parts["prune"]
    prune.add_argument("address", nargs="*", help="as list shows it, or its beginning")
    prune.add_argument("--older-than", type=_at_least_0, metavar="DAYS", help="not used for so many days")
    prune.add_argument("--to-gb", type=_at_least_0, metavar="N", help="the longest unused, until N GB are left")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")
    prune.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def main() -> None:
    """``list``, ``verify`` and ``prune``, or else a build with Hydra's overrides."""
    if len(sys.argv) > 1 and sys.argv[1] in ACTIONS:
        try:
            raise SystemExit(look_after(sys.argv[1:]))
        except UserError as error:
            command.fail(str(error))
        except OSError as error:
            command.fail_for_file(error)
    if len(sys.argv) > 1 and "=" not in sys.argv[1] and not sys.argv[1].startswith("-"):
        command.fail(f"{sys.argv[1]}: unknown action; use {', '.join(ACTIONS)}, or settings like lm=... to build")
    command.main("cache", task)


if __name__ == "__main__":
    main()

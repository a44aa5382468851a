"""Overrides of a queued job: which may be changed, and how new ones take the place of old ones."""

import re
from pathlib import Path

from sae_lightning.command import key_of
from sae_lightning.core import UserError

# What is settled at submission: another folder, or other resources, would be another job.
_SETTLED = ("resume", "add_to", "trial", "paths", "hydra", "launcher", "sweep")
_PATHS = ("data.path", "data.heldout", "data.source.path", "data.source.name", "data.cache_dir", "lm.name")


def assign(key: str, value: str | Path) -> str:
    """Return ``key='value'`` with the value quoted: Hydra takes commas, spaces and brackets for signs of its own."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), str(value))
    return f"{key}='{escaped}'"


def merged(old: list[str], new: list[str]) -> list[str]:
    """Return old overrides with the new ones in their places, or behind. Raises UserError for what cannot change."""
    for override in new:
        key = key_of(override)
        if "=" not in override and not override.startswith("~"):
            raise UserError(f"{override}: is no override; write key=value")
        if key.split(".")[0].split("/")[0].split("@")[0] in _SETTLED:
            raise UserError(f"{override}: is settled at submission; cancel the job and submit another")
    places = {key_of(override): override for override in old}
    return list((places | {key_of(override): override for override in new}).values())


def absolute(override: str) -> str:
    """Return an override with a path in it made absolute: it was typed in another folder than the sweep was."""
    key, _, value = override.partition("=")
    there = key.lstrip("+") in _PATHS and Path(value).expanduser().exists()
    return assign(key, Path(value).expanduser().resolve()) if there else override

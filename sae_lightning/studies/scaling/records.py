"""The records of any set of runs: found in their folders, with the settings in which the runs differ."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sae_lightning.core.errors import UserError

#: In the folder of a sweep's run that failed: why.
FAILED_FILE = "failed.json"
# Folders that hold no runs but may hold many files.
_NOT_RUNS = {"checkpoints", "export", "tensorboard", "source", "figures"}
# Keys of a config that name a run and say nothing about it.
_NOT_SETTINGS = ("paths.", "callbacks.", "logger.", "trial", "name", "resume", "progress", "bank", "add_to")
# Keys of a config that a record gives a shorter name to.
_IN_RECORD = {"sae._target_", "sae.d_sae", "sae.k", "tokens", "seed", "optimizer.lr", "data.batch_size"}
_OF_ARCHITECTURE = ("sae.", "losses.", "init.")
SETTINGS = ("architecture", "d_sae", "k", "lr", "tokens", "batch_size", "seed")


@dataclass(frozen=True)
class Record:
    """One trained SAE. run_dir: its run's folder, relative to the sweep's; lane: its name in a bank.

    values: the line of records.jsonl. settings: its config, dotted keys (empty where no config.yaml lies beside).
    """

    run_dir: str
    lane: str
    values: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)

    def number(self, name: str) -> float | None:
        """Return a value as a finite number, None where there is none."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return float(value)


@dataclass(frozen=True)
class Missing:
    """A run that has no result. kind: failed, pruned, unfinished or unreadable."""

    run_dir: str
    lane: str
    kind: str
    reason: str


@dataclass
class Collection:
    """What a sweep left behind: the finished runs, those without a result, and the settings that differ."""

    root: Path
    records: list[Record]
    missing: list[Missing]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The finished records as plain mappings, for ``pareto.front_rows``."""
        return [{**record.values, "run_dir": record.run_dir, "lane": record.lane} for record in self.records]

    def differing(self) -> list[str]:
        """Return the keys of the configs that differ between the finished runs and stand in no record.

        What an architecture brings with it (a threshold's rate) counts only when it differs within one, and a key
        that some configs lack (of an older version) only among those that have it.
        """
        seen: dict[str, dict[str, set[str]]] = {}
        configured = [record for record in self.records if record.settings]
        for name in dict.fromkeys(key for record in configured for key in record.settings):
            if name in _IN_RECORD or name.startswith(_NOT_SETTINGS):
                continue
            for record in configured:
                within = str(record.values.get("architecture")) if name.startswith(_OF_ARCHITECTURE) else ""
                if name in record.settings:
                    seen.setdefault(name, {}).setdefault(within, set()).add(repr(record.settings[name]))
        return sorted(name for name, groups in seen.items() if any(len(values) > 1 for values in groups.values()))


def collect(folders: Sequence[str | Path]) -> Collection:
    """Read every ``records.jsonl`` under the folders, runs and banks alike.

    A run counts as finished when ``metrics.json`` lies in its folder (of a bank's lane: in ``lanes/NAME``), or when
    its records came without any config. Order: by run_dir and lane, numbers in them by size.

    Raises UserError: a folder that is missing, or no run in any of them.
    """
    roots = [Path(folder).expanduser() for folder in folders]
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give a folder with runs in it")
    roots = [root.resolve() for root in roots]
    base = Path(os.path.commonpath(roots))
    records: list[Record] = []
    missing: list[Missing] = []
    for folder in dict.fromkeys(folder for root in roots for folder in _run_folders(root)):
        for item in _read(folder, folder.relative_to(base).as_posix()):
            records.append(item) if isinstance(item, Record) else missing.append(item)
    if not records:
        where = ", ".join(str(root) for root in roots)
        left = f" ({len(missing)} there failed or did not finish)" if missing else ""
        raise UserError(f"{where}: no finished run has a records.jsonl in it{left}; give a folder of finished runs")
    return Collection(
        base,
        sorted(records, key=lambda r: _natural(r.run_dir, r.lane)),
        sorted(missing, key=lambda m: _natural(m.run_dir, m.lane)),
    )


def _natural(*names: str) -> list[tuple[bool, int, str]]:
    """Order job 9 before job 10."""
    parts = [part for name in names for part in (*name.split("/"), "")]
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _run_folders(root: Path) -> Iterator[Path]:
    """Yield the folders that hold a run: those with records, and those with a run's config and none."""
    for path, folders, files in os.walk(root):
        holds_run = not {"records.jsonl", "config.yaml", FAILED_FILE}.isdisjoint(files)
        # A finished bank's records stand in its run folder; of an unfinished one, lanes may have been finished alone.
        unfinished_bank = "records.jsonl" not in files and "lanes" in folders
        skipped = _NOT_RUNS | ({"lanes"} if holds_run and not unfinished_bank else set())
        folders[:] = sorted(f for f in folders if f not in skipped and not f.startswith("."))
        if holds_run and not unfinished_bank:
            yield Path(path)


def _read(folder: Path, name: str) -> Iterator[Record | Missing]:
    path = folder / "records.jsonl"
    configured = (folder / "config.yaml").is_file()
    if not path.is_file():
        yield _without_result(folder, name)
        return
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            yield Missing(name, f"line {number}", "unreadable", f"records.jsonl line {number} is no JSON object")
            continue
        lane = str(values.get("lane", "sae"))
        home = folder / "lanes" / lane
        record = Record(name, lane, values, _settings(home) or _settings(folder))
        if reason := values.get("failed"):
            yield Missing(name, lane, "failed", str(reason))
        elif configured and not any((place / "metrics.json").is_file() for place in (home, folder)):
            yield _without_result(folder, name, lane)
        elif record.number("fvu") is None:
            yield Missing(name, lane, "failed", f"its fvu is {values.get('fvu')}")
        else:
            yield record


def _without_result(folder: Path, name: str, lane: str = "sae") -> Missing:
    if (folder / "pruned.json").is_file():
        return Missing(name, lane, "pruned", "stopped early by the sweep's pruner")
    if (folder / FAILED_FILE).is_file():
        return Missing(name, lane, "failed", _failure(folder / FAILED_FILE))
    return Missing(name, lane, "unfinished", "it has no metrics.json: stopped, killed, failed or still running")


def _failure(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return "failed; its failed.json cannot be read"


def _settings(folder: Path) -> dict[str, Any]:
    """Return a run's config as dotted keys; empty where it has none that can be read."""
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was compiled
        values = yaml.load((folder / "config.yaml").read_text(encoding="utf-8"), Loader=loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return _dotted(values) if isinstance(values, dict) else {}


def _dotted(values: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _dotted(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat

"""Going on with what is there: a stopped run, one lane of a stopped bank, and lanes added to a bank."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sae_lightning.build.bank import SOLO, lane_configs, lane_names
from sae_lightning.command import key_of
from sae_lightning.config import OVERRIDES_FILE, RunConfig, load_config, validate
from sae_lightning.core import UserError, write_json
from sae_lightning.training import AtomicCheckpointIO, last_good
from sae_lightning.training.checkpoints import parts_of, step_checkpoints
from sae_lightning.training.extract import extract_lane

logger = logging.getLogger(__name__)


def find_checkpoint(run_dir: Path) -> Path | None:
    """Return the checkpoint that a run goes on from, None where it has none yet.

    A lane's folder in a bank's ``lanes`` has none of its own at first: its part of the bank's last one is taken out.
    """
    if any((run_dir / "checkpoints").glob("step-*")):
        return last_good(run_dir)
    bank = run_dir.parent.parent
    if run_dir.parent.name != "lanes" or not any((bank / "checkpoints").glob("step-*")):
        return None
    whole = last_good(bank)
    logger.info("taking lane %s out of %s", run_dir.name, whole)
    path = run_dir / "checkpoints" / whole.name
    for file in (*parts_of(whole), whole):  # rank 0's, which makes it whole, last
        part = extract_lane(torch.load(file, map_location="cpu", weights_only=True), run_dir.name, SOLO)
        AtomicCheckpointIO().save_checkpoint(part, path.with_name(file.name))
    assert step_checkpoints(path.parent) == [path]
    return path


def saved_lanes(run_dir: Path, config: RunConfig) -> dict[str, RunConfig]:
    """Return the lanes' configs of a run that was begun or queued before."""
    if config.bank is None:
        return {SOLO: config}
    names = lane_names(config.bank)
    folders = {name: run_dir / "lanes" / name for name in names}
    missing = [name for name, folder in folders.items() if not (folder / "config.yaml").is_file()]
    if not missing:
        return {name: load_config(folder) for name, folder in folders.items()}
    if len(missing) < len(names) or not (run_dir / OVERRIDES_FILE).is_file():
        raise UserError(f"resume={run_dir}: lanes/{missing[0]}/config.yaml is missing; restore it or start anew")
    return lane_configs(config, saved_overrides(run_dir))  # queued, or killed before anything was built


def saved_overrides(run_dir: Path) -> list[str]:
    """Read what ``save_overrides`` kept."""
    return json.loads((run_dir / OVERRIDES_FILE).read_text(encoding="utf-8"))


def save_overrides(run_dir: Path, overrides: Sequence[str]) -> None:
    """Keep the command line that a bank's lanes were composed from."""
    write_json(run_dir / OVERRIDES_FILE, list(overrides))


def added_to(raw: Mapping[str, Any], overrides: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """Return the config of a bank whose lanes are added to an earlier bank, and the command line its lanes start from.

    Everything but ``bank`` is the earlier bank's: data, order, budget. Raises UserError for other overrides, a folder
    that is no bank's, and an empty ``bank``.
    """
    folder = Path(str(raw["add_to"])).expanduser().resolve()
    if not raw["add_to"] or not (folder / "config.yaml").is_file():
        raise UserError(f"add_to={raw['add_to']}: is no run folder (it has no config.yaml); give the folder of a bank")
    extra = [key for o in overrides if (key := key_of(o)) not in ("bank", "add_to", "progress")]
    if extra:
        raise UserError(f"add_to={raw['add_to']}: new lanes read the bank's own stream; leave out {', '.join(extra)}")
    if not raw["bank"]:
        raise UserError(f"add_to={raw['add_to']}: no lane to add; give bank=[{{sae.k: 128}}] or the like")
    earlier = load_config(folder)
    if earlier.bank is None or not (folder / OVERRIDES_FILE).is_file():
        raise UserError(f"add_to={raw['add_to']}: is no bank's run folder; give the folder of a run with bank=")
    values = earlier.model_dump(mode="json") | {"bank": raw["bank"], "add_to": str(folder), "progress": raw["progress"]}
    values["data"]["seed"] = earlier.stream_seed
    config = validate(values)
    return config, [*saved_overrides(folder), f"data.seed={earlier.stream_seed}"]

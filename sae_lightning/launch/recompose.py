"""A run's config from its overrides, written to its run folder; as a command, with whatever source it is run from.

``python -m sae_lightning.launch.recompose RUN_DIR OVERRIDE...`` is how an edit of a queued job uses the yaml files and
the rules frozen at submission, and not those of a checkout that has changed since.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sae_lightning import command
from sae_lightning.config import RunConfig, save_config, validate, with_absolute_paths
from sae_lightning.core import UserError
from sae_lightning.launch.overrides import assign


def checked(raw: dict[str, Any], overrides: Sequence[str]) -> RunConfig:
    """Return the config of a run that a job will start later, perhaps from another folder.

    overrides: what it was composed from, as the lanes of a bank are. Raises UserError for whatever can be seen now.
    """
    for key in ("resume", "add_to"):
        if raw.get(key) is not None:
            raise UserError(f"{key}={raw[key]}: a job of a sweep is a run of its own; leave {key} out")
    from sae_lightning.build import lane_configs
    from sae_lightning.build.checks import check_nodes

    config = with_absolute_paths(validate(raw))
    check_nodes(config)
    if config.bank is not None:
        lane_configs(config, overrides)
    if config.lm is None or config.data.cache == "off":
        return config
    from sae_lightning.activations.cache import default_root

    # All jobs of a sweep share the cache that this machine means, whatever theirs would mean.
    cache_dir = str(Path(config.data.cache_dir or default_root()).expanduser().resolve())
    return config.model_copy(update={"data": config.data.model_copy(update={"cache_dir": cache_dir})})


def write_run(config: RunConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Write what a queued run is: config.yaml, and for a bank the command line that its lanes are composed from."""
    from sae_lightning.build import save_overrides

    save_config(config, run_dir)
    if config.bank is not None:
        place = config.data.cache_dir
        given = [*overrides, *([assign("data.cache_dir", place)] if place else [])]
        save_overrides(run_dir, given)


def main(run_dir: str, *overrides: str) -> None:
    """Compose, check, write config.yaml; exit with 2 and one line on a mistake, leaving the file as it was."""
    try:
        config = checked(command.plain(command.compose("train", list(overrides))), overrides)
        write_run(config, Path(run_dir), overrides)
    except UserError as error:
        command.fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        command.fail(command.explain(error, "train", list(overrides)))


if __name__ == "__main__":
    main(*sys.argv[1:])

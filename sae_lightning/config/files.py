"""Configs checked, and kept in run folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from sae_lightning.config.run import RunConfig
from sae_lightning.config.sections import DataConfig, LMConfig, Section
from sae_lightning.core.errors import UserError
from sae_lightning.core.files import atomic_path
from sae_lightning.validation import one_line

#: A bank's command line, beside its config: its lanes, and those added later, are composed from it.
OVERRIDES_FILE = "overrides.json"

Config = TypeVar("Config", bound=Section)


def validate(raw: Mapping[str, Any], model: type[Config] = RunConfig) -> Config:  # pyright: ignore[reportArgumentType]
    """Check a composed config; raise UserError with every broken rule in one line."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise UserError(one_line(error)) from None


def load_config(run_dir: Path) -> RunConfig:
    """Read and validate the config of an existing run."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise UserError(f"resume={run_dir}: is no run folder (it has no config.yaml); give the folder of a run")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is no readable YAML ({error}); restore it or start the run anew") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings; restore it or start the run anew")
    return validate(values)


def _absolute(value: str | None) -> str | None:
    """Return a path that exists as an absolute one, anything else as it is."""
    return str(Path(value).expanduser().resolve()) if value and Path(value).expanduser().exists() else value


def absolute_model(name: str | None) -> str | None:
    """Return a language model's name; of a local folder its absolute path."""
    return name if name in ("smollm2", "tiny") else _absolute(name)


def with_absolute_name(lm: LMConfig) -> LMConfig:
    """Return a language model's settings with ``absolute_model`` of its name."""
    return lm.model_copy(update={"name": absolute_model(lm.name)})


def with_absolute_data(data: DataConfig) -> DataConfig:
    """Return settings of data with the paths that exist made absolute."""
    return data.model_copy(
        update={
            "path": _absolute(data.path),
            "heldout": _absolute(data.heldout),
            "targets": _absolute(data.targets),
            "cache_dir": data.cache_dir and str(Path(data.cache_dir).expanduser().resolve()),
            "source": data.source and {k: _absolute(v) if k in ("path", "name") else v for k, v in data.source.items()},
        }
    )


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return the config with the paths that exist made absolute: a run may be resumed from any folder."""
    data = with_absolute_data(config.data)
    lm = config.lm and with_absolute_name(config.lm)
    tuned = config.sites.tuned.model_copy(update={"name": absolute_model(config.sites.tuned.name)})
    sites = config.sites.model_copy(update={"tuned": tuned})
    return config.model_copy(update={"data": data, "lm": lm, "sites": sites})


def config_text(config: RunConfig) -> str:
    """Return the resolved config as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def save_config(config: RunConfig, run_dir: Path) -> str:
    """Write config.yaml (resolved) and return its text."""
    text = config_text(config)
    with atomic_path(run_dir / "config.yaml") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text

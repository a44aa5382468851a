"""Names of runs and the folders they go to."""

import datetime
import re
from pathlib import Path

from sae_lightning.config import RunConfig
from sae_lightning.core import UserError


def run_name(config: RunConfig) -> str:
    """Return the run's name: LM or file, site, architecture, width and k (or the number of lanes), safe in a path."""
    if config.name:
        name = config.name
    else:
        lm = config.lm.name if config.lm else Path(config.data.path or config.data.kind).stem
        parts = [Path(lm).name, site_name(config) if config.lm else "rows"]
        if config.bank:
            parts.append(f"bank{len(config.bank)}")
        else:
            parts.append(str(config.sae.get("_target_", "sae")).rsplit(".", 1)[-1].removesuffix("SAE").lower())
            parts.append(f"f{config.sae.get('d_sae')}")
            parts += [f"k{config.sae['k']}"] if config.sae.get("k") else []
        name = "_".join(parts)
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", name)


def sae_name(path: str) -> str:
    """Return what an SAE is called: the last part of its path that is not ``export``."""
    return next(part for part in reversed(Path(path).expanduser().resolve().parts) if part != "export")


def site_name(config: RunConfig) -> str:
    """Return which sites a run reads in short: resid9, resid8-9-10, mlp_in4-to-mlp_out4, resid9-and-TUNED."""
    sites = config.sites
    layers = "-".join(map(str, sites.numbers))
    if sites.read is not None:
        name = sites.read[0] + (f"-and-{len(sites.read) - 1}-more" if len(sites.read) > 1 else "")
        name += f"-to-{(sites.write or sites.read)[0]}" if sites.transcodes else ""
    else:
        name = sites.kind + layers + (f"-to-{sites.write_kind}{layers}" if sites.transcodes else "")
    second = config.tuned
    return name if second is None else f"{name}-and-{Path(second.name).name}{second.revision or ''}"


def new_run_dir(config: RunConfig, sweep_dir: str | None = None) -> Path:
    """Return the folder of a new run; raise UserError when it holds a run already."""
    if config.add_to:
        return _next(Path(config.add_to).expanduser().resolve(), "added")
    if config.paths.run_dir:
        folder = Path(config.paths.run_dir).expanduser()
    elif sweep_dir:
        folder = Path(sweep_dir)
    else:
        stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        folder = Path(config.paths.outputs).expanduser() / "runs" / f"{stamp}_{run_name(config)}"
    folder = folder.resolve()
    if not config.paths.run_dir:
        base, number = folder, 1
        while (folder / "config.yaml").exists():  # two runs of one second
            number += 1
            folder = base.with_name(f"{base.name}_{number}")
    if (folder / "config.yaml").exists():
        raise UserError(
            f"paths.run_dir={folder}: holds a run already; continue it with resume={folder} or name another"
        )
    return folder


def _next(parent: Path, stem: str) -> Path:
    number = 1
    while (parent / f"{stem}-{number}").exists():
        number += 1
    return parent / f"{stem}-{number}"

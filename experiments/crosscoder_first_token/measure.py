"""Held-out fvu of one crosscoder on several sets of tokens, whatever mask it was trained with."""

from pathlib import Path

import torch
from torch import Tensor

from sae_lightning import command
from sae_lightning.activations import MaskPolicy
from sae_lightning.build.subject import build_subject
from sae_lightning.config import EvaluateConfig, validate
from sae_lightning.core import ActivationBatch
from sae_lightning.lm.sites import site_layer
from sae_lightning.studies import Subject, measure_all
from sae_lightning.studies.evaluation import ReconstructionStudy, SitesStudy

TOKENS = 32768
#: Norms above so many times the median count as outliers, as in training's default mask.
MULTIPLE = 10.0


def measure(run: Path) -> dict[str, float]:
    """Return what a crosscoder does to each set of tokens.

    ``fvu, SET``; ``fvu, layer L``: of each site, on the tokens without outliers; ``error at first %``, ``energy at
    first %``: the share of all tokens' squared error, and of their squared distance from the mean of tokens without
    outliers, that lies at first positions.
    """
    config = validate(command.plain(command.compose("evaluate", [f"sae={run}", f"tokens={TOKENS}"])), EvaluateConfig)
    subject = build_subject(config, str(run)).subject
    x, sets = rows_of(subject)
    found: dict[str, float] = {}
    errors: dict[str, float] = {}
    for name, keep in sets.items():
        rows = x[keep]
        about = Subject(subject.sae, rows=ActivationBatch(x=rows, y=rows, token_index=torch.arange(len(rows))))
        studies = [ReconstructionStudy(others=False), SitesStudy(rows=0)]
        results = measure_all(about, studies, draws=0, show_progress=False)
        whole, sites = results["reconstruction"].values, results["sites"].values
        errors[name] = (whole["mse"] or 0.0) * len(rows)
        if name != "first only":
            found[f"fvu, {name}"] = whole["fvu"] or 0.0
        if name == "outliers out":
            for key, value in sites.items():
                if key.startswith("fvu/"):
                    found[f"fvu, layer {site_layer(key.removeprefix('fvu/'))}"] = value or 0.0
    energy = (x - x[sets["outliers out"]].mean(0)).square().sum(1).double()
    found["error at first %"] = 100 * errors["first only"] / errors["first in"]
    found["energy at first %"] = 100 * float(energy[sets["first only"]].sum() / energy.sum())
    return found


#: Rows that were read, by sites and windows: all lanes of a bank are measured on the same ones.
_READ: dict[tuple[object, ...], tuple[Tensor, dict[str, Tensor]]] = {}


def rows_of(subject: Subject) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the held-out rows of every real token, and of each set of tokens which rows are in it; read once."""
    harvester = subject.harvester
    assert harvester is not None
    key = (tuple(harvester.sites.read), harvester.windows.identity(), tuple(subject.windows))
    if key not in _READ:
        special = harvester.mask.special_ids if harvester.mask else ()
        harvester = harvester.with_mask(MaskPolicy(special, first_position=False, norm_multiple=None))
        _, acts, keep = harvester.full(list(subject.windows))
        position = torch.arange(acts.shape[1]).expand(acts.shape[:2])
        first = (position == 0).to(keep.device)[keep]
        x = acts[keep].float()
        norms = x.norm(dim=1)
        large = norms > MULTIPLE * norms[~first].median()
        sets = {"first in": torch.ones_like(first), "first out": ~first, "outliers out": ~first & ~large}
        _READ[key] = (x, {**sets, "first only": first})
    return _READ[key]

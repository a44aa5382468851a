"""Banks: from a list of overrides to one config a lane, and from a Hydra-style grid to the list."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from sae_lightning import command
from sae_lightning.build.checks import check_nodes
from sae_lightning.config import RunConfig, validate, with_absolute_paths
from sae_lightning.core import UserError

#: The name of a run's only lane.
SOLO = "sae"
#: What all lanes share: they read one stream, in one process, for as many steps.
_SHARED = ("lm", "sites", "data", "tokens", "trainer", "callbacks", "logger", "evaluation", "paths", "trial")
_OWN_KEYS = ("bank", "add_to", "resume")
#: What no lane has a say in, because it is about the process and not about an SAE.
_NOT_A_LANE_S = (*_OWN_KEYS, "trial", "progress", "paths", "hydra", "launcher", "sweep", "debug")


def expand_grid(arguments: Sequence[str]) -> list[str]:
    """Return a command line with ``bank=grid`` written out: one lane for each combination of the swept keys.

    ``bank=grid sae.k=16,32 model=topk,batch_topk`` becomes ``bank=[{sae.k: 16, model: topk}, ...]``; the sweeps are
    Hydra's: comma-separated values, ``choice(...)``, ``range(...)``. Raises UserError for a grid without a sweep.
    """
    if "bank=grid" not in arguments:
        return list(arguments)
    if any(a in ("-m", "--multirun") for a in arguments):
        raise UserError("bank=grid: makes one run of the whole grid; leave out --multirun, or leave out bank=grid")
    parser = OverridesParser.create()
    rest, axes = [], []
    for argument in arguments:
        if argument == "bank=grid":
            continue
        try:
            override = None if argument.startswith("-") or "=" not in argument else parser.parse_override(argument)
        except HydraException:
            override = None  # hydra says it better when it composes
        if override is None or not override.is_sweep_override():
            rest.append(argument)
        else:
            axes.append([(override.get_key_element(), value) for value in _values(override)])
    if not axes or not all(axes):
        raise UserError("bank=grid: the grid is empty; sweep at least one key, for example sae.k=16,32,64")
    lanes = [
        "{" + ", ".join(f"{key}: {value}" for key, value in combination) + "}"
        for combination in itertools.product(*axes)
    ]
    return [*rest, f"bank=[{', '.join(lanes)}]"]


def _values(override: Override) -> list[str]:
    try:
        return [str(value) for value in override.sweep_string_iterator()]
    except (HydraException, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{override.input_line}: cannot be one axis of a grid ({error}); use values, choice(...) or range(...)"
        ) from None


def lane_configs(base: RunConfig, overrides: Sequence[str]) -> dict[str, RunConfig]:
    """Return each lane's own config, by name: what ``overrides`` and the lane's own would make of a run of its own.

    A lane may set whatever does not touch the shared stream: model, sae, init, losses, normalise, optimizer,
    scheduler, seed, and ``name``, its folder's name (else made of its values). Every lane reads with the bank's
    ``data.seed``. Raises UserError naming the lane.
    """
    assert base.bank is not None
    if not base.bank:
        raise UserError("bank=[]: the bank is empty; give a list of overrides, for example bank=[{sae.k: 16}]")
    data_seed = base.stream_seed
    shared = base.model_copy(update={"data": base.data.model_copy(update={"seed": data_seed})})
    out: dict[str, RunConfig] = {}
    for number, (name, own) in enumerate(zip(lane_names(base.bank), base.bank, strict=True), start=1):
        try:
            for key in own:
                if command.key_of(key).split(".")[0].split("/")[0] in _NOT_A_LANE_S:
                    raise UserError(f"{key}: is no setting of a lane; leave it out, or set it for the whole bank")
            lane = _compose(overrides, own)
            lane = lane.model_copy(update={"data": lane.data.model_copy(update={"seed": data_seed}), "name": name})
            _check_shared(lane, shared)
            check_nodes(lane)
        except UserError as error:
            raise UserError(f"bank lane {number} ({name}): {error}") from None
        out[name] = lane
    return out


def lane_names(bank: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lanes' names, made of their values: ``k_16``, ``standard-l1_3-lr_5e-05``."""
    names: list[str] = []
    for number, own in enumerate(bank, start=1):
        name, again = _lane_name(own, number), 1
        while (unique := name if again == 1 else f"{name}-{again}") in names:
            again += 1
        names.append(unique)
    return names


def _compose(overrides: Sequence[str], own: Mapping[str, Any]) -> RunConfig:
    keys = {command.key_of(str(key)) for key in own}
    kept = [o for o in overrides if command.key_of(o) not in {*keys, *_OWN_KEYS}]
    lines = [f"{key}={_text(value)}" for key, value in own.items() if key != "name"]
    while True:
        try:
            return with_absolute_paths(validate(command.plain(command.compose("train", [*kept, *lines]))))
        except (HydraException, OmegaConfBaseException) as error:
            # sae.k=32 of the whole bank means nothing to a lane of another architecture.
            strange = [o for o in kept if "model" in keys and f"'{o.split('=', 1)[0]}'" in str(error)]
            if not strange:
                raise UserError(command.explain(error, "train", [*kept, *lines])) from None
            kept = [o for o in kept if o not in strange]


def _text(value: Any) -> str:
    """Return a value as Hydra's command line writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_text(child) for child in value) + "]"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", str(value))
    return str(value) if plain else json.dumps(str(value))


def _check_shared(lane: RunConfig, base: RunConfig) -> None:
    for field in _SHARED:
        ours, theirs = lane.model_dump(mode="json")[field], base.model_dump(mode="json")[field]
        if ours != theirs:
            differing = [k for k in ours if ours[k] != theirs.get(k)] if isinstance(ours, dict) and theirs else []
            key = ".".join([field, *differing[:1]])
            raise UserError(f"{key}: all lanes share it; set it for the whole bank, or make a run of its own")
    if lane.objective.end_to_end != base.objective.end_to_end:
        raise UserError(
            f"objective.end_to_end={str(lane.objective.end_to_end).lower()}: all lanes share it, since whole windows "
            "are another stream than single rows; set objective= for the whole bank, and weights "
            "(objective.logit_kl=...) for each lane"
        )
    if lane.normalise.sample_tokens != base.normalise.sample_tokens:
        raise UserError("normalise.sample_tokens: all lanes share the sample; set it for the whole bank")


def _lane_name(own: Mapping[str, Any], number: int) -> str:
    if not isinstance(own, Mapping) or not own:
        raise UserError(f"bank lane {number}: must be a mapping of overrides, as {{sae.k: 16}}; is {own!r}")
    if own.get("name"):
        text = str(own["name"])
    else:
        parts = []
        for key, value in own.items():
            last = command.key_of(str(key)).rsplit(".", 1)[-1]
            parts.append(str(value) if key == "model" else f"{last}_{value}")
        text = "-".join(parts)
    # Names are folders, and keys of a ModuleDict, which takes no dots.
    name = re.sub(r"[^A-Za-z0-9_=+-]+", "-", text.replace(".", "p")).strip("-")[:80] or f"lane-{number}"
    return f"lane-{name}" if hasattr(nn.ModuleDict(), name) else name

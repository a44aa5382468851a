"""One lane's part of a bank's checkpoint, as a run of its own would have saved it."""

import re
from typing import Any

from sae_lightning.core import UserError

_KEY = re.compile(r"^lanes\.([^.]+)\.(.*)$")


def extract_lane(checkpoint: dict[str, Any], lane: str, solo: str) -> dict[str, Any]:
    """Return the checkpoint of a run whose only lane, named ``solo``, is the bank's ``lane``.

    The stream, the loop's counters and the generators are the bank's: the lane goes on with the batches it would have
    seen there, and ends with the same bits. Raises UserError for a lane that the bank lacks or has dropped.
    """
    state = {name: value for name, value in checkpoint["state_dict"].items() if _KEY.match(name)}
    names = list(dict.fromkeys(_KEY.match(name)[1] for name in state))  # pyright: ignore[reportOptionalSubscript]
    if lane not in names:
        raise UserError(f"lane {lane!r}: the bank's checkpoint has no such lane; it has {', '.join(names)}")
    prefix = f"lanes.{lane}."
    own = {f"lanes.{solo}.{name.removeprefix(prefix)}": v for name, v in state.items() if name.startswith(prefix)}
    bad = int(own[f"lanes.{solo}.first_bad_step"])
    if bad >= 0:
        raise UserError(f"lane {lane!r}: was dropped, its loss was not finite at step {bad}; start it anew")
    number = names.index(lane)
    (optimizer,) = checkpoint["optimizer_states"]
    group = optimizer["param_groups"][number]
    moments = {new: optimizer["state"][old] for new, old in enumerate(group["params"]) if old in optimizer["state"]}
    (scheduler,) = checkpoint["lr_schedulers"]
    per_group = ("base_lrs", "_last_lr", "lr_lambdas")
    callbacks = {key: dict(value) for key, value in checkpoint["callbacks"].items()}
    for value in callbacks.values():
        if "best_fvu" in value:
            value["best_fvu"] = float("inf")  # that of another lane, maybe
    return {
        **checkpoint,
        "state_dict": own,
        "optimizer_states": [
            {"state": moments, "param_groups": [{**group, "params": list(range(len(group["params"])))}]}
        ],
        "lr_schedulers": [{k: [v[number]] if k in per_group else v for k, v in scheduler.items()}],
        "callbacks": callbacks,
    }

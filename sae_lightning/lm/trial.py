"""Whether runs with something else written come out the same through the plain model and through the bridge."""

import torch
from torch import Tensor

from sae_lightning.lm.agreement import difference, tolerance, trial_length, widened
from sae_lightning.lm.bridged import BridgedModel
from sae_lightning.lm.plain import PlainModel
from sae_lightning.lm.run import Ran, Request

# Columns of the logits that are compared: as good as all of them, and a median over tokens of each is taken.
_COLUMNS = 512
# Rounding at the logits, over that at a site in half precision: SmolLM2 in bfloat16 is off by 0.04 at its last block
# and by 0.16 at its logits, where the residual stream has been divided by a norm of which most is one direction.
_FURTHER = 4


def differing_runs(plain: PlainModel, bridged: BridgedModel, windows: Tensor, request: Request) -> str | None:
    """Return what speaks against making runs like ``request`` with the plain model; None: nothing.

    Both run ``windows`` with half of another activation mixed in at the sites that are written, and have to agree on
    the logits and at the sites that are read; in float32 as well where that costs little. A run that begins midway has
    to give what the whole run gives, bit for bit.
    """
    if (against := _differing(plain, bridged, windows, request)) is not None:
        return against
    with widened([*plain.tensors(), *bridged.tensors()]) as wide:
        short = windows[:, : trial_length(windows.shape[1], plain.sliding_window, wide=True)]
        return _differing(plain, bridged, short, request) if wide else None


def begins_midway(plain: PlainModel, windows: Tensor, trial: Request, start: str, whole: Ran | None = None) -> bool:
    """Whether the plain model's run from the residual site ``start`` on is its whole run, bit for bit."""
    whole = whole or plain.run(windows, trial)
    midway = Request(trial.edits, start=(start, plain.read(windows, [start])[start]), sites=trial.sites)
    ran = plain.run(windows, midway)
    same = all(torch.equal(ran.seen[site], whole.seen[site]) for site in trial.sites)
    return same and torch.equal(ran.logits, whole.logits)


def _differing(plain: PlainModel, bridged: BridgedModel, windows: Tensor, request: Request) -> str | None:
    trial = Request(dict.fromkeys(request.edits, _mixed), sites=request.sites)
    try:
        ours = plain.run(windows, trial)
        if request.start is not None and not begins_midway(plain, windows, trial, request.start[0], ours):
            return f"the plain model's run from {request.start[0]} on is not its whole run"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model's own forward, called as not every model lets itself be called
        return f"the plain model does not run ({type(error).__name__}: {error})"
    try:
        theirs = bridged.run(windows, trial)
    except ValueError:
        # A module that the bridge computes past has no other measure than the plain model.
        if all(bridged.is_hook(site) for site in trial.places):
            raise
        return None
    stride = max(1, ours.logits.shape[-1] // _COLUMNS)
    pairs = {site: (ours.seen[site], theirs.seen[site]) for site in trial.sites}
    pairs["the logits"] = (ours.logits[..., ::stride], theirs.logits[..., ::stride])
    for what, (a, b) in pairs.items():
        off = difference(a, b)
        allowed = tolerance(b.dtype, windows.device) * (1 if b.dtype == torch.float32 else _FURTHER)
        if not off <= allowed:
            kind = str(b.dtype).removeprefix("torch.")
            return f"the plain model with {plain.attention} attention is off by {off:.2g} in {kind} at {what}"
    return None


def _mixed(value: Tensor) -> Tensor:
    return value + 0.5 * value.roll(1, dims=-1)

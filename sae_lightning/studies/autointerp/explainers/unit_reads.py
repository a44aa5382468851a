"""A unit's activation on any token ids, read as the corpus was."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sae_lightning.activations.harvest import read_windows
from sae_lightning.store import Reader
from sae_lightning.studies.autointerp.records import Unit

#: Of one unit: some texts' token ids in, the unit's activation on each of their tokens out (0 where it is not active or
#: the mask leaves the token out).
Reads = Callable[[Sequence[NDArray[np.int64]]], list[NDArray[np.float32]]]

#: Where neurons are read.
NEURONS = "blocks.{layer}.mlp.hook_post"
# Tokens that go through the language model at once.
_AT_ONCE = 1024


def unit_reads(reader: Reader, unit: Unit, neurons: str = NEURONS) -> Reads:
    """Return what reads a unit on short texts: each in a window of its own, after the token that windows begin with.

    A neuron's activation counts where it is above 0. neurons: the site of a layer's neurons. Of texts longer than the
    corpus' windows the end is read, as much as fits, with 0 before it; shorter ones are filled up behind their end,
    where a causal language model does not see it.
    """
    longest = reader.context_length - (reader.start is not None)
    site = neurons.replace("{layer}", str(unit.layer)) if unit.kind == "neuron" else None

    def reads(texts: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        out: list[NDArray[np.float32]] = [np.zeros(len(text), np.float32) for text in texts]
        texts = [text[-longest:] for text in texts]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        while order:
            room = len(texts[order[-1]])
            part, order = _last(order, max(1, _AT_ONCE // (room + 1)))
            filled = np.zeros((len(part), room), np.int64)
            for row, i in zip(filled, part, strict=True):
                row[: len(texts[i])] = texts[i]
            values = _windows(reader, unit, site, filled)
            for row, i in zip(values, part, strict=True):
                out[i][len(out[i]) - len(texts[i]) :] = row[: len(texts[i])]
        return out

    return reads


def _last(order: list[int], n: int) -> tuple[list[int], list[int]]:
    return order[-n:], order[:-n]


def _windows(reader: Reader, unit: Unit, site: str | None, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the activations [w, p] of windows of ids [w, p]."""
    n, room = ids.shape
    batch = reader.windows(ids.reshape(-1), room)
    read = read_windows(reader.lm, batch.tokens, [*reader.sites.read, *([site] if site else [])], n)
    x = torch.cat([read[name] for name in reader.sites.read], dim=-1)
    keep = reader.keep(batch, x)
    out = torch.zeros(keep.shape, dtype=torch.float32, device=x.device)
    if site is not None:
        out[keep] = read[site][keep][:, unit.index].to(torch.float32).clamp(min=0)
    else:
        rows, features, values = reader.encode(x[keep]).triples()
        mine = features == unit.index
        column = torch.zeros(int(keep.sum()), device=x.device)
        column[rows[mine]] = values[mine].to(torch.float32)
        out[keep] = column
    return out[:, out.shape[1] - room :].cpu().numpy()

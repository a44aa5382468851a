"""What every source of activations is: an endless, seeded, resumable stream of fixed-size batches."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from sae_lightning.core import ActivationBatch, Ranks, UserError


class StopRequested(Exception):  # noqa: N818 - a request, not an error
    """Raised out of a source's iterator after ``request_stop()``; the state stays that of the last batch handed out."""


@runtime_checkable
class ActivationSource(Protocol):
    """Endless batches of raw (not normalised) float32 rows: x [batch_size, d_in], y [batch_size, d_out].

    The same construction and seed give bit-equal batches, and after ``load_state_dict(state_dict())`` - in this
    process or another - the next batches are bit-equal to the ones that would have come. ``iter(source)`` carries on
    from where the source stands; it does not begin again.

    ``snapshot()`` is a constant-time, immutable mark of the present place. ``state_dict(mark)`` writes that place out
    later: a trainer whose loader runs ahead keeps the mark of the last batch it has used up. The state holds tensors
    and primitives only.

    ``request_stop()`` may be called from a signal handler or another thread. The iterator then raises
    ``StopRequested`` before the next LM micro-batch or batch, whichever comes first. ``close()`` ends whatever reads
    ahead; the source gives nothing after it.

    Several processes that train together spread a source over themselves (``spread``, before the first batch):
    ``batch_size`` stays that of all of them, and each is handed its part. ``one_stream`` is true of a source whose
    state is then the same everywhere, because all cut the same batches.
    """

    d_in: int
    d_out: int
    batch_size: int

    def __iter__(self) -> Iterator[ActivationBatch]: ...

    def snapshot(self) -> Any: ...

    def state_dict(self, snapshot: Any = None) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def request_stop(self) -> None: ...

    def close(self) -> None: ...


def part_of_batch(batch_size: int, ranks: Ranks) -> slice:
    """Return which rows of a batch a process takes: those between its rank's and the next one's equal share.

    Raises UserError for a batch that cannot be cut evenly.
    """
    if batch_size % ranks.world:
        raise UserError(
            f"data.batch_size={batch_size}: is the batch of all {ranks.world} processes together and must be a "
            f"multiple of trainer.devices={ranks.world}; change the one or the other"
        )
    own = batch_size // ranks.world
    return slice(own * ranks.rank, own * (ranks.rank + 1))


def check_same_stream(saved: Any, own: dict[str, Any]) -> None:
    """Raise UserError unless a saved state's description equals ``own``: a resumed stream must be the same stream."""
    if not isinstance(saved, dict):
        raise UserError("data state of the checkpoint: it has no description of its stream; the checkpoint is corrupt")
    for key, value in own.items():
        if saved.get(key) != value:
            raise UserError(
                f"data state of the checkpoint: {key} was {saved.get(key)!r}, is {value!r} now; resume with the same "
                "data, or start a new run"
            )

"""Sources whose whole state is a number: how far their stream has been read."""

from abc import ABC, abstractmethod
from typing import Any

from sae_lightning.activations.source import check_same_stream


class PlacedSource(ABC):
    """What such sources share: their state, and the wish to stop. ``_description`` tells a stream from others."""

    _position = 0
    _stop = False

    @abstractmethod
    def _description(self) -> dict[str, Any]:
        """Return what tells the stream from others, in plain values."""

    def snapshot(self) -> int:
        """Return the place in the stream."""
        return self._position

    def state_dict(self, snapshot: int | None = None) -> dict[str, Any]:
        """Return the place (now, or an earlier ``snapshot``) as primitives."""
        position = self._position if snapshot is None else snapshot
        return {"position": position, "stream": self._description()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Carry on from ``state``. UserError when it is of another stream."""
        check_same_stream(state.get("stream"), self._description())
        self._position = int(state["position"])

    def request_stop(self) -> None:
        """Let the iterator raise StopRequested before the next batch. Safe in a signal handler."""
        self._stop = True

    def resume(self) -> None:
        """Take back ``request_stop``."""
        self._stop = False

    def close(self) -> None:  # noqa: B027 - there is nothing to give back
        """Nothing runs beside the caller here."""

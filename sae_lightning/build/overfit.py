"""One batch over and over, for ``debug=overfit``."""

from collections.abc import Iterator
from typing import Any

from sae_lightning.activations import ActivationSource
from sae_lightning.core import ActivationBatch


class OneBatch:
    """Repeats the first batch of a source: the loss on it must fall, or the training step is broken."""

    def __init__(self, source: ActivationSource) -> None:
        self.source = source
        self.d_in, self.d_out, self.batch_size = source.d_in, source.d_out, source.batch_size
        self.one_stream = getattr(source, "one_stream", False)
        self._batch: ActivationBatch | None = None

    def __iter__(self) -> Iterator[ActivationBatch]:
        while True:
            if self._batch is None:
                self._batch = next(iter(self.source))
            yield self._batch

    def snapshot(self) -> Any:
        return None

    def state_dict(self, snapshot: Any = None) -> dict[str, Any]:
        """Return nothing: the batch is the same in every sitting."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back nothing."""

    def request_stop(self) -> None:
        self.source.request_stop()

    def close(self) -> None:
        self.source.close()

"""A source of batches that lie in memory: nothing to save, nothing to stop."""

from typing import Any


class Stateless:
    """What an ``ActivationSource`` has beside its batches, for a run that is never resumed."""

    def snapshot(self) -> Any:
        return None

    def state_dict(self, snapshot: Any = None) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def request_stop(self) -> None: ...

    def close(self) -> None: ...

"""Is the Hugging Face hub there? Asked before its own client, which retries for most of a minute."""

import os
import threading
import urllib.error
import urllib.request


def hub_offline() -> bool:
    """Whether the user has switched the hub off (``HF_HUB_OFFLINE``, ``HF_DATASETS_OFFLINE``)."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def hub_reachable(timeout: float = 5.0) -> bool:
    """Whether the hub (``HF_ENDPOINT``) answers at all within ``timeout`` seconds, whatever it answers."""
    if hub_offline():
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=timeout).close()
        except urllib.error.HTTPError:
            answered.set()
        except (OSError, ValueError):
            return
        answered.set()

    # In a thread: looking a name up has no timeout of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout + 0.5)
    return answered.is_set()

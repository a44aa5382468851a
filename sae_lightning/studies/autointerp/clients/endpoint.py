"""Where an endpoint is and which key it is given: the key is read from the environment and stays there."""

import ipaddress
import os
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from sae_lightning.core import UserError

# A shorter one would be found in any text.
_SHORTEST_KEY = 8


@dataclass(frozen=True)
class Endpoint:
    """A base URL such as https://api.openai.com/v1, and the name of the environment variable that holds its key.

    The key itself is in no attribute: it is read where a request is made. Raises UserError: no http(s) address; one
    that carries a user, a password or parameters; a variable that is not set, unless the host is this machine; a key
    that would travel in the clear over the internet.
    """

    base_url: str
    key_env: str | None

    def __post_init__(self) -> None:
        self._check_url()
        # In capitals: a key that was given for the name would be shown.
        if self.key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_env):
            raise UserError(
                "client.key_env: must be the name of an environment variable, such as OPENAI_API_KEY, not a key; set "
                "the variable and name it here"
            )
        key = self.key()
        if key is None and self.key_env is not None and not self.is_local:
            raise UserError(
                f"client.key_env={self.key_env}: this environment variable is not set; export the key of "
                f"{self.place} in it, or set client.key_env=null where none is needed"
            )
        if key is not None and urlsplit(self.base_url).scheme == "http" and not self._is_private:
            raise UserError(
                f"client.base_url={self.place}: a key would travel over http in the clear; use https, or "
                "client.key_env=null where none is needed"
            )

    @property
    def url(self) -> str:
        """Address that chats are posted to."""
        return self.base_url.rstrip("/") + "/chat/completions"

    @property
    def place(self) -> str:
        """The address as it may be shown."""
        return self.base_url.rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether the host is this machine."""
        host = self._host
        return host == "localhost" or host.endswith(".localhost") or (_address(host) or _ELSEWHERE).is_loopback

    @property
    def _is_private(self) -> bool:
        """Whether the host is this machine or in a network of its own."""
        return self.is_local or (_address(self._host) or _ELSEWHERE).is_private

    @property
    def _host(self) -> str:
        return (urlsplit(self.base_url).hostname or "").lower()

    def key(self) -> str | None:
        """Return the key from the environment, None where there is none."""
        key = os.environ.get(self.key_env, "").strip() if self.key_env is not None else ""
        if not key:
            return None
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise UserError(
                f"client.key_env={self.key_env}: holds characters that no key has; copy the key into it again"
            )
        return key

    def headers(self) -> dict[str, str]:
        """Return what every request carries. Bodies come as they are: what is packed may unpack to any size."""
        key = self.key()
        common = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        return common | ({} if key is None else {"Authorization": f"Bearer {key}"})

    def without_key(self, text: str) -> str:
        """Return a text from the endpoint without the key, should it say it back."""
        key = self.key()
        return text.replace(key, "[key]") if key is not None and len(key) >= _SHORTEST_KEY else text

    def _check_url(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            _ = parts.port
        except ValueError:
            parts = SplitResult("", "", "", "", "")
        rule = "must be an http or https address such as https://api.openai.com/v1"
        # Never shown before this is known: it may be a secret.
        if "@" in self.base_url or parts.query or parts.fragment:
            raise UserError(
                "client.base_url: must carry no user, password or parameters; put the key into the environment "
                "variable that client.key_env names"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname or not self.base_url.isprintable():
            raise UserError(f"client.base_url={self.base_url[:100]!r}: {rule}; set it to your endpoint's")
        if parts.path.rstrip("/").endswith("/chat/completions"):
            raise UserError(
                f"client.base_url={self.base_url[:100]}: must be the address before /chat/completions; leave that out"
            )


_ELSEWHERE = ipaddress.ip_address("8.8.8.8")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None

"""The one exception for users' mistakes: a single line that names the value, the rule and the remedy."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave (not in our code). Commands print it as one line and exit with code 2.

    The message has the form ``<what and its value>: <rule>; <remedy>`` and never spans lines: a multi-line cause
    (another library's report, a path with a newline in it) is flattened.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


def nearest(word: str, known: Iterable[str], n: int = 3) -> str:
    """Return ``"; did you mean 'a', 'b'?"`` for the known words closest to ``word``, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=n, cutoff=0.5)
    return "; did you mean " + ", ".join(repr(c) for c in close) + "?" if close else ""

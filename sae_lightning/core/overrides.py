"""Texts on the command line, as Hydra's grammar takes them."""

import re
from collections.abc import Collection, Iterable

_IN_QUOTES = r"""(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")"""
# A value that the user has put in quotes already, and one that says that there is none.
_AS_IT_IS = re.compile(rf"{_IN_QUOTES}|null|", re.DOTALL)
_LIST = re.compile(rf"\[\s*{_IN_QUOTES}(?:\s*,\s*{_IN_QUOTES})*\s*\]", re.DOTALL)


def with_quoted_texts(arguments: Iterable[str], names: Collection[str], *, lists: bool = False) -> list[str]:
    """Return ``name=value`` arguments with the values of ``names`` quoted, so that any text is that text.

    Hydra reads commas, brackets, quotes and ``${`` in a bare value as its grammar, and 1984 and true as no texts. What
    is in quotes already, ``null`` and nothing at all stay as they are. lists: so does a list of texts in quotes.
    """
    out = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        plain = equals and name.lstrip("+") in names and not _AS_IT_IS.fullmatch(value)
        plain = plain and not (lists and _LIST.fullmatch(value))
        out.append(f"{name}={_quoted(value)}" if plain else argument)
    return out


def _quoted(text: str) -> str:
    # OmegaConf: backslashes before an interpolation are halved, and an odd one makes it a text.
    text = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)
    # Hydra: the same before a quote.
    return '"' + re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + (r"\"" if found[2] else ""), text) + '"'

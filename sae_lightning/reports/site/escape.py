"""Text from outside on its way into the site: as JSON inside a script, as visible characters, as a link or none."""

import json
import re
from typing import Any
from urllib.parse import urlsplit

# What would end a script or a tag, a line of JavaScript's old grammar, what is no text (controls, lone surrogates,
# noncharacters), and what turns the direction of the text around it.
_UNSAFE = re.compile(r"[<>&\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff\ud800-\udfff]")
# Joiners (U+200C, U+200D) stay: they belong to the letters and emoji that they join.
_HIDDEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
_SYMBOLS = {"\n": "↵", "\t": "⇥", "\r": "␍", "\x7f": "␡"}
_SCHEMES = ("http", "https")


def script_json(value: Any) -> str:
    """Return ``value`` as JSON that any script or HTML element can hold: what is unsafe there is ``\\uXXXX``.

    Raises ValueError for NaN and infinity, which JSON has no word for.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def visible(text: Any) -> str:
    """Return a text with a symbol in the place of every character that is not seen or moves others about."""
    return _HIDDEN.sub(lambda found: symbol(found[0]), str(text))


def symbol(character: str) -> str:
    """Return what stands for a character that is not seen: a control picture where there is one, else its code."""
    if character in _SYMBOLS:
        return _SYMBOLS[character]
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else f"[U+{code:04X}]"


def safe_link(link: Any) -> str | None:
    """Return a link that may become an ``href``: http or https with a host, no white space or controls; else None."""
    if not isinstance(link, str) or not link.isprintable() or any(c.isspace() for c in link):
        return None
    try:
        parts = urlsplit(link)
    except ValueError:
        return None
    return link if parts.scheme.lower() in _SCHEMES and parts.netloc else None

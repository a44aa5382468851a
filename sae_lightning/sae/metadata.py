"""The form of an SAE's metadata: what later code takes for granted of it, checked where files are read and written."""

from collections.abc import Mapping
from typing import Any

from sae_lightning.core import UserError

_OBJECTS = ("lm", "data", "mask", "recipe", "training", "normalisation", "source")
_SITES = 'null or {"read": [names], "write": [names]}'
#: What may be said of each site, and which sites there must be as many of.
_PER_SITE = {"widths": "read", "widths_out": "write", "scale_out": "write"}


def check_metadata(metadata: Mapping[str, Any], where: object, remedy: str = "export the SAE again") -> None:
    """Raise UserError unless ``metadata`` has the form that this package writes. Keys it does not know are let pass.

    sites: null, or names of the sites to read and to write, with a number each in widths (of those read), widths_out
    and scale_out (of those written: what training multiplied them by) where these are given. lm, data, mask, recipe,
    training, normalisation, source: null or objects; in ``lm``, so is tuned, and in ``training``, so are heldout,
    intervals ([low, high] each) and measured_on (a number each).
    """

    def need(right: bool, name: str, value: Any, rule: str) -> None:
        if not right:
            raise UserError(f"{where}: metadata.{name}={_short(value)}: must be {rule}; {remedy}")

    sites = metadata.get("sites")
    need(sites is None or (isinstance(sites, Mapping) and _are_sites(sites)), "sites", sites, _SITES)
    said: Mapping[str, Any] = sites or {}
    for key, side in _PER_SITE.items():
        value = said.get(key)
        rule = f"null or a number above 0 for each site in {side}"
        need(value is None or _are_positive(value, len(said[side])), f"sites.{key}", value, rule)
    for key in _OBJECTS:
        need(isinstance(metadata.get(key), Mapping | None), key, metadata.get(key), "null or an object")
    training = metadata.get("training") or {}
    for key in ("heldout", "intervals", "measured_on"):
        need(isinstance(training.get(key), Mapping | None), f"training.{key}", training.get(key), "null or an object")
    for name, ends in (training.get("intervals") or {}).items():
        pair = isinstance(ends, list | tuple) and len(ends) == 2 and all(map(_is_number, ends))
        need(ends is None or pair, f"training.intervals.{name}", ends, "null or two numbers")
    for name, tokens in (training.get("measured_on") or {}).items():
        need(tokens is None or _is_number(tokens), f"training.measured_on.{name}", tokens, "null or a number")
    for key in ("norm_multiple", "median_norm"):
        value = (metadata.get("mask") or {}).get(key)
        need(value is None or _is_number(value), f"mask.{key}", value, "null or a number")
    lm = metadata.get("lm") or {}
    need(isinstance(lm.get("name"), str | None), "lm.name", lm.get("name"), "null or a name")
    need(isinstance(lm.get("tuned"), Mapping | None), "lm.tuned", lm.get("tuned"), "null or an object")


def _are_sites(sites: Mapping[str, Any]) -> bool:
    names = [sites.get(side) for side in ("read", "write")]
    return all(isinstance(some, list | tuple) and all(isinstance(name, str) for name in some) for some in names)


def _are_positive(values: Any, n: int) -> bool:
    return isinstance(values, list | tuple) and len(values) == n and all(_is_number(v) and v > 0 for v in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

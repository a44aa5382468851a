"""Broken rules in one line: pydantic's findings as value, rule and remedy; arguments against a signature."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import BeforeValidator, ConfigDict, ValidationError, create_model

from sae_lightning.core.errors import UserError, nearest


def whole(value: Any) -> Any:
    """Read 1e6 as the integer it is: YAML and the command line call it a float. True is no number."""
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def one_line(error: ValidationError, prefix: str = "") -> str:
    """Turn a pydantic report into one line: every broken rule, the value, and what would be right."""
    parts = []
    for item in error.errors():
        where = ".".join(str(p) for p in (*filter(None, [prefix]), *_readable(item["loc"])))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "value_error" and not where:
            parts.append(message)
        elif item["type"] == "extra_forbidden":
            parts.append(f"{where}: unknown key; remove it")
        elif item["type"] == "missing":
            parts.append(f"{where}: is needed; set {where}=...")
        else:
            shown = repr(item["input"]) if not isinstance(item["input"], dict) else "{...}"
            parts.append(f"{where}={shown}: {message[0].lower()}{message[1:]}; set {where} to such a value")
    return " | ".join(dict.fromkeys(parts))


def _readable(location: tuple[int | str, ...]) -> list[str]:
    """Drop pydantic's names of union branches ('int', 'literal[...]') from an error's location."""
    names = ("int", "float", "bool", "str", "Schedule")
    forms = ("function-", "literal[", "constrained-", "list[", "tuple[", "dict[")
    return [str(p) for p in location if not (isinstance(p, str) and (p in names or p.startswith(forms)))]


def _takes_number(annotation: Any) -> Any:
    """Let integer parameters accept 1e6, wherever they stand in the annotation."""
    if annotation is int:
        return Annotated[int, BeforeValidator(whole)]
    if get_origin(annotation) is Annotated and get_args(annotation)[0] is int:
        return Annotated[(*get_args(annotation), BeforeValidator(whole))]
    return annotation


def check_arguments(
    target: Callable[..., Any], arguments: Mapping[str, Any], where: str, given: set[str]
) -> dict[str, Any]:
    """Validate ``arguments`` against the signature of ``target`` and return them converted.

    ``given`` are the parameters that the caller supplies itself and the user may not set. Raises UserError: unknown
    argument (nearest named), wrong type, out of range, missing.
    """
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if name in given or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        annotation = Any if parameter.annotation is parameter.empty else _takes_number(parameter.annotation)
        fields[name] = (annotation, ... if parameter.default is parameter.empty else parameter.default)
    for name in arguments:
        if name not in fields:
            raise UserError(
                f"{where}.{name}: unknown key of {getattr(target, '__name__', target)}{nearest(name, fields)}"
            )
    for name, value in arguments.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where}.{name}={value}: must be a finite number")
    model = create_model("Arguments", __config__=ConfigDict(arbitrary_types_allowed=True), **fields)
    try:
        checked = model.model_validate(dict(arguments))
    except ValidationError as error:
        raise UserError(one_line(error, where)) from None
    return {name: getattr(checked, name) for name in arguments}

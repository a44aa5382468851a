"""From a config node to the object it names."""

import inspect
from typing import Any

from hydra.utils import get_object

from sae_lightning.config import Node
from sae_lightning.core import UserError
from sae_lightning.validation import check_arguments


def target_of(node: Node, where: str) -> Any:
    """Return the class or function that a node's ``_target_`` names."""
    name = node.get("_target_")
    if not isinstance(name, str):
        raise UserError(f"{where}._target_={name!r}: must name a class, as package.module.Class; choose an option")
    try:
        target = get_object(name)
        inspect.signature(target)
        return target
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"{where}._target_={name}: cannot be imported ({error}); check its spelling") from None


def check_node(node: Node, where: str, given: set[str]) -> Node:
    """Check a node's arguments against its target's signature and return them converted, building nothing."""
    return check_arguments(
        target_of(node, where), {name: value for name, value in node.items() if name != "_target_"}, where, given
    )


def make(node: Node, where: str, **given: Any) -> Any:
    """Build the object of a node: its arguments are checked against the target's signature first.

    ``given`` are arguments that only the program knows (widths, folders); those that the target does not take are
    left out.
    """
    target = target_of(node, where)
    known = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    passed = {name: value for name, value in given.items() if name in known or takes_any}
    return target(**check_node(node, where, set(passed)), **passed)

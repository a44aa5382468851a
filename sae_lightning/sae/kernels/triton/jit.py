"""``triton.jit`` for a type checker, which does not know Triton's language of launches and calls."""

from collections.abc import Callable
from typing import Any

import triton


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function when it is launched or called by a kernel.

    Kernels are also marked ``no_type_check``: the tests' shape checks wrap every function of the package, and what
    they wrap cannot be compiled.
    """
    return triton.jit(function)

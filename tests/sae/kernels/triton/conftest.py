"""Without a GPU the kernels run in Triton's interpreter, in one process beside the tests.

Triton decides when it is imported whether it compiles or interprets, and ``import lightning`` imports it: in the
tests' own process it is too late, and the variable would turn other tests to the interpreter. A test of a module that
says ``INTERPRETED = True`` is therefore called by name in a process that has the variable set from the start. With a
GPU the same tests run compiled, here.
"""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from typing import Any

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def begin() -> None:
    """Make this process the interpreter's, with the shape checks that the tests have."""
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    from jaxtyping import install_import_hook

    install_import_hook(["sae_lightning.sae"], "beartype.beartype")


def call(module: str, name: str, arguments: dict[str, Any]) -> None:
    """Run one test."""
    getattr(import_module(module), name)(**arguments)


@pytest.fixture(scope="session")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """Return the interpreter's process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin) as pool:
        yield pool


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Hand an interpreted test to the other process; its failure is raised here with the traceback from there."""
    if DEVICE == "cuda" or not getattr(pyfuncitem.module, "INTERPRETED", False):
        return None
    pool: ProcessPoolExecutor = pyfuncitem._request.getfixturevalue("interpreter")
    arguments = pyfuncitem.callspec.params if hasattr(pyfuncitem, "callspec") else {}
    pool.submit(call, pyfuncitem.module.__name__, pyfuncitem.originalname, dict(arguments)).result()
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the kernels' tests where there is no Triton."""
    try:
        import triton  # noqa: F401  # asked for, not used
    except ImportError:
        for item in items:
            if "kernels/triton" in item.nodeid and "test_available" not in item.nodeid:
                item.add_marker(pytest.mark.skip(reason="Triton is not installed"))

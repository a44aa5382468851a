"""The sparse path's kernels for a GPU, in Triton; each means what the torch form of the same name means.

Nothing here is imported before it is used: without Triton (``available`` says so) the torch forms do the work. No
function waits for the device, sums are float32 in an order that depends on the inputs' shapes and pattern alone (the
same bits every run), and inputs of other dtypes than ``DTYPES`` are not taken. There are no gradients: the callers
are the forward and backward of ``kernels.sparse``.

With ``TRITON_INTERPRET=1`` set before Triton is first imported the kernels run on the CPU, slowly: that is for tests.
"""

import logging
import os
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sae_lightning.sae.kernels.triton.adam import adam_
    from sae_lightning.sae.kernels.triton.batch_select import largest_places
    from sae_lightning.sae.kernels.triton.dots import dot_rows
    from sae_lightning.sae.kernels.triton.row_select import row_top_k
    from sae_lightning.sae.kernels.triton.sums import by_feature, sum_by_feature, sum_rows

logger = logging.getLogger(__name__)

#: What the kernels read; float64 stays with the torch forms.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_HOME = {
    "adam_": "adam",
    "by_feature": "sums",
    "dot_rows": "dots",
    "largest_places": "batch_select",
    "row_top_k": "row_select",
    "sum_by_feature": "sums",
    "sum_rows": "sums",
}


def available(tensor: Tensor) -> bool:
    """Return whether the kernels take this tensor: on a GPU (or interpreted), of a dtype they know, Triton present."""
    if tensor.device.type == "cpu":
        return _interpreted() and tensor.dtype in DTYPES and _importable()
    return tensor.device.type == "cuda" and tensor.dtype in DTYPES and _importable()


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@cache
def _importable() -> bool:
    # Unset, Triton warns that its default will change; this is today's: a product and a sum may be rounded once.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    try:
        import_module("triton")
    except Exception as error:  # a broken driver or compiler beside it raises anything: torch's forms do without
        logger.debug("Triton cannot be imported (%s): the sparse path uses torch", error)
        return False
    return True


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = [
    "DTYPES",
    "adam_",
    "available",
    "by_feature",
    "dot_rows",
    "largest_places",
    "row_top_k",
    "sum_by_feature",
    "sum_rows",
]

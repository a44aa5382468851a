"""The largest of each row, with one rule for equal ones."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def largest(values: Float[Tensor, "n m"], k: int) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """Return (columns, values) of each row's k largest, largest first; of equal ones the lower column comes first.

    ``torch.topk`` leaves open which of equal values it takes. k above m: all m.
    """
    m = values.shape[1]
    k = min(k, m)
    top = values.topk(min(k + 1, m), dim=1)
    columns = top.indices[:, :k].sort(dim=1).values
    if 0 < k < m:
        for row in (top.values[:, k - 1] == top.values[:, k]).nonzero().flatten().tolist():
            edge = top.values[row, k]
            above = (values[row] > edge).nonzero().flatten()
            equal = (values[row] == edge).nonzero().flatten()[: k - len(above)]
            columns[row] = torch.cat([above, equal]).sort().values
    found = values.gather(1, columns)
    order = found.argsort(dim=1, descending=True, stable=True)
    return columns.gather(1, order), found.gather(1, order)

"""Matching the decoder directions of two SAEs one to one."""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

# Pairs of features above which the assignment is made among each one's nearest instead of among all.
_DENSE_PAIRS = 6_000 * 6_000
_NEAREST = 32
_CHUNK = 2048


def unit_rows(W_dec: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "d_sae d_out"]:
    """Return the directions of the decoder's rows, float64 on the CPU; rows of zeros stay zeros."""
    rows = W_dec.detach().double().cpu()
    norms = rows.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, rows / norms.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


def nearest(a: Float[Tensor, "A d"], b: Float[Tensor, "B d"]) -> tuple[Float[Tensor, "A"], Int[Tensor, "A"]]:
    """Return, of each unit row of ``a``, its largest cosine with a row of ``b``, and which row that is."""
    found = [(part @ b.T).max(1) for part in a.split(_CHUNK)]
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])


def match(
    a: Float[Tensor, "A d"], b: Float[Tensor, "B d"], *, dense_pairs: int = _DENSE_PAIRS
) -> tuple[Int[NDArray, "m"], Int[NDArray, "m"], Float[NDArray, "m"]]:
    """Return (rows of a, rows of b, cosines) of the one-to-one match of unit rows with the largest sum of cosines.

    m = min(A, B), in the order of the rows of a. The Hungarian assignment (Kuhn 1955; scipy's
    ``linear_sum_assignment``) where A B is at most ``dense_pairs``. Above that it is made among each row's 32 nearest,
    in both directions; what finds no partner there is left out, and counts as a cosine of 0.
    """
    from scipy.optimize import linear_sum_assignment

    if len(a) * len(b) <= dense_pairs:
        cosines = (a @ b.T).numpy()
        rows, columns = linear_sum_assignment(cosines, maximize=True)
        return rows, columns, cosines[rows, columns]
    return _match_nearest(a, b)


def _match_nearest(a: Tensor, b: Tensor) -> tuple[NDArray, NDArray, NDArray]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    if len(a) > len(b):
        columns, rows, cosines = _match_nearest(b, a)
        order = np.argsort(rows)
        return rows[order], columns[order], cosines[order]
    row, column, cosine = (np.concatenate(parts) for parts in zip(_candidates(a, b), _turned(b, a), strict=True))
    key, first = np.unique(row * len(b) + column, return_index=True)
    row, column, cosine = key // len(b), key % len(b), cosine[first]
    # A column of its own for each row, as good as a cosine of 0, so that a full match always exists.
    own = np.arange(len(a))
    row, column = np.append(row, own), np.append(column, len(b) + own)
    # Weights must not be 0: 2 - cosine lies in [1, 3].
    cost = 2.0 - np.append(cosine, np.zeros(len(a)))
    graph = coo_array((cost, (row, column)), shape=(len(a), len(b) + len(a))).tocsr()
    rows, columns = min_weight_full_bipartite_matching(graph)
    cosines = 2.0 - np.asarray(graph[rows, columns]).reshape(-1)
    matched = columns < len(b)
    return rows[matched], columns[matched], cosines[matched]


def _candidates(a: Tensor, b: Tensor) -> tuple[NDArray, NDArray, NDArray]:
    k = min(_NEAREST, len(b))
    values, columns = [], []
    for part in a.split(_CHUNK):
        best = (part @ b.T).topk(k, dim=1)
        values.append(best.values)
        columns.append(best.indices)
    rows = np.repeat(np.arange(len(a)), k)
    return rows, torch.cat(columns).reshape(-1).numpy(), torch.cat(values).reshape(-1).numpy()


def _turned(b: Tensor, a: Tensor) -> tuple[NDArray, NDArray, NDArray]:
    rows, columns, values = _candidates(b, a)
    return columns, rows, values

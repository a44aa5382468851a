"""Places in the plane for directions: near ones near each other."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.core import UserError, derive_seed
from sae_lightning.studies.progress import track
from sae_lightning.studies.subject import Subject

# Cosines of one chunk: 128 MB in float32.
_COSINES = 1 << 25
#: Fewer points than this have no neighbourhoods to draw.
FEWEST_POINTS = 4


def without_umap() -> str | None:
    """Return why no map can be made where umap-learn is not installed."""
    from importlib.util import find_spec

    return None if find_spec("umap") else "needs umap-learn; pip install 'sae_lightning[analysis]'"


def unit_directions(W_dec: Float[Tensor, "F d"], centre: bool = False) -> Float[Tensor, "F d"]:
    """Return the directions of a decoder's rows, float32 on the CPU; rows of zeros stay zeros.

    centre: the mean of the directions (of rows that are not 0) is taken off first, and what is left is a direction.
    """
    rows = W_dec.detach().float().cpu()
    there = (rows != 0).any(1, keepdim=True)
    rows = torch.where(there, torch.nn.functional.normalize(rows, dim=1), 0.0)
    if centre and there.any():
        mean = rows.double().sum(0) / there.sum()
        rows = torch.where(there, torch.nn.functional.normalize(rows - mean.float(), dim=1), 0.0)
    return rows


def nearest_rows(
    rows: Float[Tensor, "n d"], k: int, show_progress: bool = True
) -> tuple[Int[NDArray, "n k"], Float[NDArray, "n k"]]:
    """Return (numbers, cosine distances) of each unit row's k nearest, itself the first, at a distance of 0.

    Exact: every pair is looked at, a chunk of rows at a time.
    """
    step = max(1, _COSINES // len(rows))
    numbers, distances = [], []
    firsts = range(0, len(rows), step)
    for first in track(firsts, len(firsts), "nearest directions", show_progress):
        cosines = rows[first : first + step] @ rows.T
        own = torch.arange(len(cosines))
        cosines[own, first + own] = torch.inf
        found = cosines.topk(k, dim=1)
        numbers.append(found.indices)
        distances.append((1 - found.values).clamp(min=0))
    return torch.cat(numbers).numpy(), torch.cat(distances).numpy()


def nearest_to(
    direction: Float[Tensor, "d"], rows: Float[Tensor, "n d"], k: int, among: NDArray[np.bool_]
) -> tuple[Int[NDArray, "k"], Float[NDArray, "k"]]:
    """Return (numbers, cosines) of the k unit rows ``among`` all that are nearest to a direction; ties: lower first."""
    cosines = (rows @ direction).numpy()
    order = np.argsort(-np.where(among, cosines, -np.inf), kind="stable")[: min(k, int(among.sum()))]
    return order, cosines[order]


def umap_layout(
    rows: Float[Tensor, "n d"], *, n_neighbors: int, min_dist: float, seed: int, show_progress: bool = True
) -> Float[NDArray[np.float32], "n 2"]:
    """Return places in the plane by UMAP (McInnes et al. 2018) on cosine distances of unit rows.

    Neighbours are exact, so that nothing but the layout is drawn at random, and that from ``seed``: same rows, same
    seed, same bits. Rows that are 0, and all where there are fewer than four, have NaN. Raises UserError without
    umap-learn.
    """
    if reason := without_umap():
        raise UserError(f"map of directions: {reason}")
    out = np.full((len(rows), 2), np.nan, np.float32)
    there = np.flatnonzero((rows != 0).any(1).numpy())
    if len(there) < FEWEST_POINTS:
        return out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        rows = rows[torch.from_numpy(there)]
        n_neighbors = min(n_neighbors, len(rows) - 1)
        numbers, distances = nearest_rows(rows, n_neighbors, show_progress)
        umap = UMAP(
            n_neighbors=n_neighbors,
            min_dist=min_dist,
            metric="cosine",
            # The spectral start needs more points than it has dimensions to find.
            init="spectral" if len(rows) > 8 * FEWEST_POINTS else "random",
            random_state=derive_seed(seed, "studies", "neighbourhood") % 2**32,
            n_jobs=1,
            precomputed_knn=(numbers, distances, None),
            # Else neighbours that are given are not used below 4,096 points.
            force_approximation_algorithm=True,
        )
        places = np.asarray(umap.fit_transform(rows.numpy()), np.float32)
    out[there] = places - places.mean(0)
    return out


def placed(subject: Subject, dead: bool) -> tuple[Bool[NDArray[np.bool_], "F"], list[str]]:
    """Return which features [F] a map places, and a note of those left out because they never fire in the store."""
    there = np.ones(subject.sae.d_sae, np.bool_)
    if subject.store is None or dead:
        return there, []
    there &= np.asarray(subject.store.stats.count) > 0
    left = int((~there).sum())
    return there, [f"{left:,} features that never fire in the store are not in the map"] if left else []


def check_features(features: Sequence[int], d_sae: int, setting: str) -> list[int]:
    """Return the features that a setting names, each once. Raises UserError for one that the SAE does not have."""
    for feature in features:
        if not 0 <= feature < d_sae:
            raise UserError(f"{setting}={list(features)}: the SAE has features 0 to {d_sae - 1}, not {feature}")
    return list(dict.fromkeys(int(feature) for feature in features))

"""The overview's figures for TensorBoard: density, map, co-activation, similarity; one event file an SAE."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sae_lightning.reports.site.charts import places
from sae_lightning.reports.site.features import near_measure, near_values
from sae_lightning.reports.site.reading import Reading
from sae_lightning.reports.site.shell import folder_names
from sae_lightning.reports.sweep_figures import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAIRS = 20


def write_figures(folder: Path, readings: Sequence[Reading]) -> None:
    """Write each reading's figures under ``folder/NAME``, in place of what an earlier call wrote there."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    names = folder_names(reading.name for reading in readings)
    for reading in readings:
        with SummaryWriter(str(folder / names[reading.name])) as writer:
            for tag, figure in figures(reading):
                writer.add_figure(f"features/{tag}", figure, 0, close=False)


def figures(reading: Reading) -> "Iterator[tuple[str, Figure]]":
    """Yield (tag, figure) of everything that there is something to draw of."""
    yield "density", density_figure(reading)
    if (found := map_figure(reading)) is not None:
        yield "map", found
    if (found := partners_figure(reading)) is not None:
        yield "firing_together", found
    if (found := similarity_figure(reading)) is not None:
        yield "nearest", found


def density_figure(reading: Reading) -> "Figure":
    """Draw features by log10 of the share of tokens that they are active on."""
    store = reading.store
    count = np.asarray(store.stats.count)
    fired = count[count > 0] / max(1, store.n_kept)
    figure, (axis,) = new_figure()
    if len(fired):
        axis.hist(np.log10(fired), bins=40, color=COLOURS[0])
    axis.set_xlabel("log10 of the share of tokens")
    axis.set_ylabel("features")
    dead = int((count == 0).sum())
    axis.set_title(f"Density: {dead:,} of {len(count):,} features never fire", loc="left", fontsize=11)
    return figure


def map_figure(reading: Reading) -> "Figure | None":
    """Draw the map, coloured by density."""
    found = places(reading)
    if found is None:
        return None
    features, where = found
    density = np.asarray(reading.store.stats.count)[features] / max(1, reading.store.n_kept)
    shade = np.log10(np.maximum(density, 0.5 / max(1, reading.store.n_kept)))
    figure, (axis,) = new_figure(width=7.5, height=6.5)
    size = float(np.clip(20_000 / len(features), 1, 20))
    points = axis.scatter(where[:, 0], where[:, 1], s=size, c=shade, cmap="viridis", linewidths=0)
    figure.colorbar(points, ax=axis, label="log10 of the share of tokens", shrink=0.7)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title("Map of decoder directions (UMAP)", loc="left", fontsize=11)
    return figure


def partners_figure(reading: Reading) -> "Figure | None":
    """Draw the pairs that go together most, by Jaccard's index."""
    partner = reading.array("cooccurrence", "partner")
    jaccard = reading.array("cooccurrence", "partner_jaccard")
    if partner is None or jaccard is None:
        return None
    score = np.where(partner >= 0, jaccard, -np.inf)
    rows, columns = np.unravel_index(np.argsort(-score, axis=None, kind="stable"), score.shape)
    pairs: dict[tuple[int, int], float] = {}
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if len(pairs) == _PAIRS or not np.isfinite(score[row, column]):
            break
        a, b = sorted((row, int(partner[row, column])))
        pairs.setdefault((a, b), float(score[row, column]))
    if not pairs:
        return None
    figure, (axis,) = new_figure(height=0.8 + 0.24 * len(pairs))
    axis.barh([f"{a}, {b}" for a, b in pairs], list(pairs.values()), color=COLOURS[0])
    axis.invert_yaxis()
    axis.set_xlabel("tokens on which both fire, of those on which either does (Jaccard)")
    axis.set_title("Features that fire together most", loc="left", fontsize=11)
    return figure


def similarity_figure(reading: Reading) -> "Figure | None":
    """Draw features by how near their nearest neighbour is."""
    near, measure = near_values(reading), near_measure(reading)
    if near is None or measure is None or not np.isfinite(near[:, 0]).any():
        return None
    figure, (axis,) = new_figure()
    axis.hist(near[np.isfinite(near[:, 0]), 0], bins=40, color=COLOURS[0])
    axis.set_xlabel(f"{measure} of the nearest neighbour")
    axis.set_ylabel("features")
    axis.set_title("Nearest decoder directions", loc="left", fontsize=11)
    return figure

"""Pictures of fitted scaling laws: the points, the curve, and what the curve leaves over."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_lightning.reports.sweep_figures import logarithmic, new_figure, short
from sae_lightning.studies.scaling import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_X_LABELS = {"N": "width N = d_sae", "C": "training compute C, flops"}


def law_figure(fits: Sequence[Fit]) -> "Figure":
    """Draw fits of one law and one subject: loss above, residuals of ln L below, a colour a k."""
    figure, (above, below) = new_figure(rows=2, height=6.2)
    law = fits[0].law
    x = law.variables[0]
    active = np.concatenate([_active(fit) for fit in fits])
    colour = _colours(active)
    for fit in fits:
        (_joint if fit.k is None else _single)(above, below, fit, x, colour)
    every = np.concatenate([fit.values[x] for fit in fits])
    for axis in (above, below):
        logarithmic(axis.xaxis, every.tolist())
    below.set_xlabel(_X_LABELS[x])
    logarithmic(above.yaxis, np.concatenate([fit.loss for fit in fits]).tolist())
    above.set_ylabel("L = FVU")
    above.set_title(f"{law.name}: {short(fits[0].subject, 70)}", loc="left", fontsize=11)
    below.axhline(0, color="black", linewidth=0.8)
    below.set_ylabel("residual of ln L")
    reach = 1.15 * max(1e-6, *(float(np.abs(fit.residuals).max()) for fit in fits))
    below.set_ylim(-reach, reach)
    handles, labels = above.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _active(fit: Fit) -> np.ndarray:
    return fit.values["k"] if fit.k is None else np.array([fit.k])


def _colours(active: np.ndarray) -> Any:
    """Return a function from k to a colour, by ln k."""
    from matplotlib import colormaps

    low, high = np.log(active.min()), np.log(active.max())

    def colour(k: float) -> Any:
        return colormaps["viridis"](0.9 * (np.log(k) - low) / (high - low) if high > low else 0.3)

    return colour


def _single(above: "Axes", below: "Axes", fit: Fit, x: str, colour: Any) -> None:
    assert fit.k is not None
    shade, xs, used = colour(fit.k), fit.values[x], fit.used
    if not used.all():  # a compute frontier: the runs that it passes below
        above.scatter(xs[~used], fit.loss[~used], s=14, color=shade, alpha=0.25, linewidths=0)
    above.scatter(xs[used], fit.loss[used], s=26, color=shade)
    grid = np.geomspace(xs[used].min(), xs[used].max(), 100)
    above.plot(grid, fit.at(**{x: grid}), color=shade, linewidth=1.3, label=f"k {fit.k:g} ({fit.n} points)")
    below.scatter(xs[used], fit.residuals, s=20, color=shade)


def _joint(above: "Axes", below: "Axes", fit: Fit, x: str, colour: Any) -> None:
    ks = np.unique(fit.values["k"])
    lines = ks if len(ks) <= 8 else np.quantile(ks, [0.1, 0.5, 0.9])
    grid = np.geomspace(fit.values[x].min(), fit.values[x].max(), 100)
    for k in lines:
        curve = fit.at(**{x: grid, "k": np.full(len(grid), k)})
        above.plot(grid, curve, color=colour(k), linewidth=1.3, label=f"k {k:.3g}")
    x_all, shades, used = fit.values[x], np.array([colour(k) for k in fit.values["k"]]), fit.used
    above.scatter(x_all[~used], fit.loss[~used], s=14, c=shades[~used], alpha=0.25, linewidths=0)
    above.scatter(x_all[used], fit.loss[used], s=26, c=shades[used])
    below.scatter(x_all[used], fit.residuals, s=20, c=shades[used])

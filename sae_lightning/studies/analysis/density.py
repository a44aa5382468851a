"""How often does each feature of a store fire?"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.metrics import FEWEST, POOLED, Density, bootstrap_weights, interval, linearised
from sae_lightning.metrics.running import ratio
from sae_lightning.store import FeatureStore
from sae_lightning.studies.firings import firings_by_text
from sae_lightning.studies.study import Estimate, Result, Study, Table, defined
from sae_lightning.studies.subject import NEEDS_STORE, Subject
from sae_lightning.studies.windows import DRAWS

# Tokens whose firings are counted at once.
_CHUNK = 1 << 22
# Shares of features that a resample, which leaves texts out, shifts all to one side.
_LINEAR = ("dead", "rare")


class StoreDensity(Density):
    """``metrics.Density`` with ``l0``, the mean number of firings a token, and ``rare``, 0 < density < rare_below."""

    def __init__(self, d_sae: int, dense_above: float, rare_below: float) -> None:
        super().__init__(d_sae, dense_above)
        self.rare_below = rare_below

    def values(self, sums: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        n, counts = sums["n"], sums["counts"]
        rare = ((counts > 0) & (counts < self.rare_below * n[:, None])).sum(-1)
        d_sae = torch.where(n > 0, float(counts.shape[-1]), 0.0)
        found = super().values(sums)
        return {
            "l0": ratio(counts.sum(-1), n),
            "dead": found["dead"],
            "rare": ratio(rare, d_sae),
            "dense_share": found["dense_share"],
        }


class DensityStudy(Study):
    """How often each feature fires on the tokens of a store that count, n of them (``n_kept``).

    Of feature i: ``count_i`` firings, ``density_i = count_i / n``, ``mean_i`` activation where it fires (NaN where it
    never does), ``largest_i``, and ``information_i`` about which text one reads (``Firings.information``). Over
    features: ``dead`` is the share that never fire on these n tokens, ``rare`` that fire on a share of them above 0 and
    below ``rare_below`` (25 of 2.5M tokens at 1e-5; not defined where one firing is not below it), ``dense_share`` that
    fire on more than ``dense_above``; ``l0`` is the mean number of firings a token. dead and rare fall as n grows.

    Intervals: a bootstrap over texts; of more than 1,024 texts (fewer in an SAE of more than 32,768 features)
    neighbours are drawn together. dead and rare have the jackknife's interval (``metrics.linearised``).

    Tables: ``density_histogram`` (log10 of the density), ``l0_histogram`` (tokens by number of firings; ``from`` counts
    in, ``to`` does not), ``dead`` and ``rare`` (rarest first), ``shown`` of each.
    """

    name: ClassVar[str] = "density"
    reads_store: ClassVar[bool] = True

    def __init__(
        self,
        rare_below: Annotated[float, Gt(0), Le(1)] = 1e-5,
        dense_above: Annotated[float, Gt(0), Le(1)] = 0.1,
        bins: Annotated[int, Ge(1)] = 40,
        shown: Annotated[int, Ge(1)] = 200,
        seed: int = 0,
        draws: Annotated[int, Ge(100)] = DRAWS,
        show_progress: bool = True,
    ) -> None:
        self.rare_below, self.dense_above = rare_below, dense_above
        self.bins, self.shown, self.seed, self.draws, self.show_progress = bins, shown, seed, draws, show_progress

    def reason(self, subject: Subject) -> str | None:
        return NEEDS_STORE if subject.store is None else None

    def run(self, subject: Subject) -> Result:
        store = subject.store
        assert store is not None
        metric = StoreDensity(store.d_sae, self.dense_above, self.rare_below)
        firings = firings_by_text(store, self.name, self.show_progress)
        states = {"n": torch.from_numpy(firings.n), "counts": torch.from_numpy(firings.counts)}
        metric.load_state({name: value.sum(0) for name, value in states.items()})
        estimates, draws = self._estimates(metric, states, store.n_kept)
        stats = store.stats
        count = np.array(stats.count, np.int64)
        density = count / max(1, store.n_kept)
        mean = np.where(count > 0, stats.total / np.maximum(count, 1), np.nan)
        arrays = {
            "count": count,
            "density": density,
            "mean": mean,
            "largest": np.array(stats.largest, np.float32),
            "information": firings.information(),
        }
        tables = {
            "density_histogram": self._density_histogram(metric, store.n_kept),
            "l0_histogram": self._l0_histogram(store),
            "dead": self._dead(count, store.n_kept),
            "rare": self._rare(arrays, store.n_kept),
        }
        groups = len(states["n"])
        notes = []
        if groups < FEWEST:
            notes.append(f"{groups} texts: intervals need at least {FEWEST}; index more of them")
        if not self._may_be_rare(store.n_kept):
            notes.append(f"{self._never_rare(store.n_kept)}; index more tokens, or raise rare_below")
        return Result(estimates, tables, tuple(notes), draws, arrays=arrays)

    def _may_be_rare(self, n: int) -> bool:
        """Whether a feature that fires on one of n tokens is rare: if not, none can be."""
        return self.rare_below * n > 1

    def _never_rare(self, n: int) -> str:
        return f"rare is not defined: one firing in {n:,} tokens is no share below {self.rare_below:g}"

    def _estimates(
        self, metric: StoreDensity, states: dict[str, Tensor], n_kept: int
    ) -> tuple[dict[str, Estimate], dict[str, NDArray[np.float64]]]:
        groups = len(states["n"])
        weights = bootstrap_weights(groups, self.draws, self.seed)
        parts = [metric.values(metric.pool(states, w)) for w in weights.split(max(1, POOLED // len(metric.counts)))]
        drawn = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        linear = linearised(metric, states, weights)
        drawn |= {name: linear[name] for name in _LINEAR}
        draws = {name: value.numpy() for name, value in drawn.items()}
        estimates = {}
        for name, value in defined(metric.compute()).items():
            if name == "rare" and not self._may_be_rare(n_kept):
                value = None
                del draws[name]
            limits = None if value is None else interval(value, draws[name], groups)
            estimates[name] = Estimate(value, *(limits or (None, None)), n_kept)
        return estimates, draws

    def _density_histogram(self, metric: StoreDensity, n: int) -> Table:
        # Below one firing in all tokens there is nothing to see.
        counts, edges = metric.histogram(self.bins, lowest=-max(1.0, float(np.ceil(np.log10(max(1, n))))))
        rows = tuple((float(a), float(b), int(c)) for a, b, c in zip(edges[:-1], edges[1:], counts, strict=True))
        never = int((metric.counts == 0).sum())
        caption = f"log10 of the share of {n:,} tokens on which a feature is active; {never:,} features never were"
        return Table(("from", "to", "features"), rows, caption)

    def _l0_histogram(self, store: FeatureStore) -> Table:
        found = np.zeros(1, np.int64)
        for first in range(0, store.n_tokens, _CHUNK):
            last = min(first + _CHUNK, store.n_tokens)
            l0 = np.diff(store.csr.offsets[first : last + 1])[store.kept[first:last]]
            part = np.bincount(l0, minlength=len(found))
            part[: len(found)] += found
            found = part
        width = -(-len(found) // self.bins)
        rows = tuple((a, a + width, int(found[a : a + width].sum())) for a in range(0, len(found), width))
        return Table(("from", "to", "tokens"), rows, f"features active on a token, of {store.n_kept:,} tokens")

    def _dead(self, count: NDArray[np.int64], n: int) -> Table:
        dead = np.flatnonzero(count == 0)
        caption = f"{len(dead):,} of {len(count):,} features never fire on {n:,} tokens{self._first(dead)}"
        return Table(("feature",), tuple((int(i),) for i in dead[: self.shown]), caption)

    def _rare(self, arrays: dict[str, NDArray], n: int) -> Table:
        count = arrays["count"]
        rare = np.flatnonzero((count > 0) & (count < self.rare_below * n))
        rare = rare[np.argsort(count[rare], kind="stable")]
        rows = tuple(
            (int(i), int(count[i]), *(float(arrays[name][i]) for name in ("density", "mean", "largest")))
            for i in rare[: self.shown]
        )
        share = f"a share of {n:,} tokens above 0 and below {self.rare_below:g}"
        caption = f"{len(rare):,} of {len(count):,} features fire on {share}{self._first(rare)}"
        if not self._may_be_rare(n):
            caption = self._never_rare(n)
        return Table(("feature", "count", "density", "mean", "largest"), rows, caption)

    def _first(self, found: NDArray) -> str:
        return f"; the first {self.shown:,}" if len(found) > self.shown else ""

"""Do two SAEs have the same features?"""

from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge
from jaxtyping import Float
from numpy.typing import NDArray

from sae_lightning.core import derive_seed
from sae_lightning.metrics import bootstrap_weights, interval
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.studies.evaluation.matching import match, nearest, unit_rows
from sae_lightning.studies.progress import track
from sae_lightning.studies.study import ComparativeStudy, Estimate, Result, Table
from sae_lightning.studies.subject import Subject
from sae_lightning.studies.windows import DRAWS

_SHARES = (0.7, 0.9)
# Draws of one block times features: 64 MB of weights.
_WEIGHTS = 1 << 23


class ConsistencyStudy(ComparativeStudy):
    """How far the features of each pair of SAEs A, B are the same, by the cosines of their decoder directions.

    The features are matched one to one so that the sum of cosines is largest (``matching.match``; signed, since a
    feature and its opposite are two). With m = the smaller number of features:

    - ``consistency_cosine/A ~ B``: mean cosine of the m pairs, 1 for a permuted copy;
    - ``consistency_share_0.7/...``, ``consistency_share_0.9/...``: share of the m pairs with a cosine above that;
    - ``consistency_mmcs/A in B``: mean over A's features of the largest cosine with any of B's (MMCS), and the reverse.

    Rows of zeros have a cosine of 0 with everything. Intervals: a bootstrap over features. Estimates count features.
    Source of the question: Paulo and Belrose 2025, "Sparse autoencoders trained on the same data learn different
    features".

    shown: pairs in the table, half of them the best and half the worst. seed, draws: of the bootstrap.

    Pairs that write activations of different widths are left out and noted.
    """

    name: ClassVar[str] = "consistency"

    def __init__(
        self,
        shown: Annotated[int, Ge(2)] = 20,
        seed: int = 0,
        draws: Annotated[int, Ge(100)] = DRAWS,
        show_progress: bool = True,
    ) -> None:
        self.shown, self.seed, self.draws, self.show_progress = shown, seed, draws, show_progress

    def reason_all(self, subjects: Mapping[str, Subject]) -> str | None:
        if reason := super().reason_all(subjects):
            return reason
        widths = [subject.sae.d_out for subject in subjects.values()]
        if len(set(widths)) == len(widths):
            return f"needs two SAEs of one site; these write activations of widths {', '.join(map(str, widths))}"
        return None

    def run_all(self, subjects: Mapping[str, Subject], results: Mapping[str, Mapping[str, Result]]) -> Result:
        estimates: dict[str, Estimate] = {}
        tables: dict[str, Table] = {}
        notes: list[str] = []
        pairs = list(combinations(subjects, 2))
        for a, b in track(pairs, len(pairs), "matching features", self.show_progress):
            one, two = subjects[a].sae, subjects[b].sae
            if one.d_out != two.d_out:
                notes.append(f"{a} and {b} write activations of widths {one.d_out} and {two.d_out}: not compared")
                continue
            sites = [_sites(subjects[name].sae) for name in (a, b)]
            if None not in sites and sites[0] != sites[1]:
                notes.append(f"{a} and {b} were trained on different sites: their directions may mean different things")
            found, table = self._pair(a, b, unit_rows(one.W_dec), unit_rows(two.W_dec))
            estimates |= found
            tables[f"{a} ~ {b}"] = table
        return Result(estimates, tables, tuple(notes))

    def _pair(self, a: str, b: str, one: Float, two: Float) -> tuple[dict[str, Estimate], Table]:
        rows, columns, cosines = match(one, two)
        # Features of the smaller SAE without a partner count as 0.
        values = np.zeros(min(len(one), len(two)))
        values[: len(cosines)] = cosines
        pair = f"{a} ~ {b}"
        found = {f"consistency_cosine/{pair}": values}
        for share in _SHARES:
            found[f"consistency_share_{share}/{pair}"] = (values > share).astype(np.float64)
        found[f"consistency_mmcs/{a} in {b}"] = nearest(one, two)[0].numpy()
        found[f"consistency_mmcs/{b} in {a}"] = nearest(two, one)[0].numpy()
        estimates = self._estimates(found)
        order = np.argsort(-cosines, kind="stable")
        half = self.shown // 2
        shown = order if len(order) <= 2 * half else np.append(order[:half], order[-half:])
        ranks = {int(i): rank for rank, i in enumerate(order, start=1)}
        table = tuple((ranks[int(i)], int(rows[i]), int(columns[i]), float(cosines[i])) for i in shown)
        caption = f"The best and the worst of {len(order):,} matched pairs of features"
        return estimates, Table(("rank", f"feature of {a}", f"feature of {b}", "cosine"), table, caption)

    def _estimates(self, found: Mapping[str, Float[NDArray, "m"]]) -> dict[str, Estimate]:
        estimates = {}
        for n in {len(values) for values in found.values()}:
            of_feature = {name: values for name, values in found.items() if len(values) == n}
            stacked = np.stack(list(of_feature.values()), axis=1)
            step = max(1, _WEIGHTS // n)
            drawn = []
            for first in range(0, self.draws, step):
                seed = derive_seed(self.seed, "studies", self.name, first)
                drawn.append(bootstrap_weights(n, min(step, self.draws - first), seed).numpy() @ stacked / n)
            for name, value, draws in zip(of_feature, stacked.mean(0), np.concatenate(drawn).T, strict=True):
                estimates[name] = Estimate(float(value), *(interval(float(value), draws, n) or (None, None)), n)
        return {name: estimates[name] for name in found}


def _sites(sae: SparseAutoencoder) -> tuple[list[str], list[str]] | None:
    sites = sae.metadata.get("sites")
    return None if sites is None else (list(sites["read"]), list(sites["write"]))

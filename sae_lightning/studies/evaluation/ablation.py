"""What does the language model lose when one feature is taken out?"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.core import Permutation, UserError, derive_seed
from sae_lightning.lm.crossentropy import kl, loss, predicted
from sae_lightning.metrics import bootstrap_weights, interval
from sae_lightning.metrics.bootstrap import FEWEST
from sae_lightning.studies.passes import Pass, Text, read_unit
from sae_lightning.studies.precision import in_float32, rounding_notes
from sae_lightning.studies.progress import track
from sae_lightning.studies.removal import contribution, run_beside
from sae_lightning.studies.shares import share_interval
from sae_lightning.studies.splice import text_chunks, windows_at_a_time
from sae_lightning.studies.study import Estimate, Result, Study, Table
from sae_lightning.studies.subject import NEEDS_LM, NEEDS_ONE_LM, Subject, inference
from sae_lightning.studies.windows import DRAWS

COLUMNS = ("feature", "firings", "windows", "delta_ce", "low", "high", "kl")


class Cost(NamedTuple):
    """Sums over the positions of one window that a removed feature can reach: how many, nats, nats."""

    n: int
    delta_ce: float
    kl: float


class AblationStudy(Study):
    """``ablation_delta_ce ablation_kl ablation_share_nonzero`` of removing one feature, and a table of features.

    For a sample of features i, ``f_i d_i`` is taken out of what is written at every token where it fires, and the
    language model runs on with the rest: the spliced run (the reconstruction at kept positions), or with ``keep_error``
    the clean one, the SAE's error kept. Per feature, over the windows in which it fires and the positions from its
    first firing on that predict a real token:

    - ``delta_ce = mean(CE without it - CE with it)`` in nats; above 0 where the feature helps;
    - ``kl = mean KL(with || without)`` in nats.

    The first two estimates are their means over the sampled features, the third is the share of features whose interval
    of delta_ce does not hold 0 (about 0.05 for features that do nothing). Intervals: a feature's by a bootstrap over
    windows, the means' over windows and features, the share's is Clopper and Pearson's. Estimates count positions.

    n_features: how many are drawn, evenly, from those with ``min_firings`` firings in at least ``min_windows`` windows.
    windows_per_feature: drawn from those in which it fires.
    tokens: features are looked for, and taken out, in the first windows that hold so many positions; null: in all.
    float32: run the language model in float32 meanwhile. In bfloat16 SmolLM2 gives a KL of about 0.0017 whatever is
        removed: its rounding.
    seed: of the draws of features and windows. draws: of the bootstrap.

    Raises UserError without a language model, and where no feature fires often enough.
    """

    name: ClassVar[str] = "ablation"

    def __init__(
        self,
        n_features: Annotated[int, Ge(1)] = 16,
        windows_per_feature: Annotated[int, Ge(FEWEST)] = FEWEST,
        min_firings: Annotated[int, Ge(1)] = 16,
        min_windows: Annotated[int, Ge(FEWEST)] = FEWEST,
        tokens: Annotated[int, Ge(1)] | None = 8192,
        keep_error: bool = False,
        float32: bool = True,
        seed: int = 0,
        draws: Annotated[int, Ge(100)] = DRAWS,
        show_progress: bool = True,
    ) -> None:
        self.n_features, self.windows_per_feature = n_features, windows_per_feature
        self.min_firings, self.min_windows, self.tokens = min_firings, min_windows, tokens
        self.keep_error, self.float32 = keep_error, float32
        self.seed, self.draws, self.show_progress = seed, draws, show_progress

    def reason(self, subject: Subject) -> str | None:
        if not subject.has_lm:
            return NEEDS_LM
        return None if subject.has_one_lm else NEEDS_ONE_LM

    def run(self, subject: Subject) -> Result:
        if reason := self.reason(subject):
            raise UserError(f"ablation: {reason}")
        assert subject.lm is not None
        numbers = [int(number) for number in subject.numbers]
        if self.tokens is not None:
            numbers = numbers[: -(-self.tokens // subject.window_tokens)]
        wanted = set(numbers)
        # Whole units are read, whatever part of the last is asked about: the same shapes give the same bits.
        units = [unit for unit in subject.units() if wanted.intersection(unit)]
        with inference(subject.sae), in_float32(subject.lm, self.float32):
            firings = _firings(subject, units, wanted, self.show_progress)
            chosen = self._choose(firings)
            costs = self._costs(subject, units, chosen)
            rounding = rounding_notes(subject.lm)
        result = self._result(firings, costs, sorted(numbers))
        note = f"{len(chosen)} of {self._eligible(firings).size:,} features that fire often enough"
        few = f"{len(chosen)} features: intervals of means over features need at least {FEWEST}"
        return replace(result, notes=(note, *rounding, *((few,) if len(chosen) < FEWEST else ())))

    def _eligible(self, firings: Mapping[int, Tensor]) -> NDArray[np.int64]:
        counts = torch.stack(list(firings.values()))
        enough = (counts.sum(0) >= self.min_firings) & ((counts > 0).sum(0) >= self.min_windows)
        return enough.nonzero()[:, 0].numpy()

    def _choose(self, firings: Mapping[int, Tensor]) -> dict[int, set[int]]:
        """Return the sampled features and the windows each is removed in."""
        eligible = self._eligible(firings)
        if not eligible.size:
            raise UserError(
                f"ablation: no feature fires {self.min_firings} times in {self.min_windows} of {len(firings)} windows; "
                "raise studies.ablation.tokens or lower studies.ablation.min_firings"
            )
        features = _sample(eligible, self.n_features, derive_seed(self.seed, "studies", self.name))
        chosen = {}
        for feature in sorted(features.tolist()):
            fires = np.array([number for number, counts in firings.items() if counts[feature] > 0])
            chosen[feature] = set(
                _sample(fires, self.windows_per_feature, derive_seed(self.seed, self.name, feature)).tolist()
            )
        return chosen

    def _costs(
        self, subject: Subject, units: Sequence[list[int]], chosen: Mapping[int, set[int]]
    ) -> dict[int, dict[int, Cost]]:
        wanted: defaultdict[int, list[int]] = defaultdict(list)
        for feature, numbers in chosen.items():
            for number in numbers:
                wanted[number].append(feature)
        costs: dict[int, dict[int, Cost]] = {feature: {} for feature in chosen}
        some = [unit for unit in units if any(number in wanted for number in unit)]
        for numbers in track(some, len(some), "ablation of features", self.show_progress):
            unit = read_unit(subject, numbers)
            for number, (part, rows) in zip(unit.numbers, text_chunks(unit, 1), strict=True):
                for feature, cost in self._window(subject, unit, part, rows, wanted[number]).items():
                    costs[feature][number] = cost
        return costs

    def _window(
        self, subject: Subject, unit: Pass, part: Text, rows: slice, features: Sequence[int]
    ) -> dict[int, Cost]:
        """Return what each of ``features`` costs in one window of the unit."""
        assert subject.lm is not None
        active = unit.features.slice(rows.start, rows.stop)
        base = unit.y[rows] if self.keep_error else unit.y_hat[rows]
        position = part.keep[0].nonzero()[:, 0]
        real = predicted(part.tokens.mask)[0]
        at_once = max(1, windows_at_a_time(subject.lm, subject.window_tokens) - 1)
        costs: dict[int, Cost] = {}
        for first in range(0, len(features), at_once):
            some = features[first : first + at_once]
            changed, starts = [], []
            for feature in some:
                where, added = contribution(unit.sae, active, feature)
                without = base.clone()
                without[where] -= added
                changed.append(without)
                starts.append(int(position[where[0]]))
            logits = run_beside(subject, part, base, changed)
            losses = loss(logits, part.tokens.tokens.expand(len(logits), -1)).double()
            for j, (feature, start) in enumerate(zip(some, starts, strict=True), start=1):
                reached = real.clone()
                reached[:start] = False
                reached = reached.to(losses.device)
                delta = (losses[j] - losses[0])[reached]
                divergence = kl(logits[:1, start:-1], logits[j : j + 1, start:-1])[0].double()[reached[start:]]
                costs[feature] = Cost(int(reached.sum()), float(delta.sum()), float(divergence.sum()))
        return costs

    def _result(
        self, firings: Mapping[int, Tensor], costs: Mapping[int, Mapping[int, Cost]], numbers: Sequence[int]
    ) -> Result:
        place = {number: i for i, number in enumerate(numbers)}
        sums = np.zeros((3, len(numbers), len(costs)))
        for column, of_window in enumerate(costs.values()):
            for number, cost in of_window.items():
                sums[:, place[number], column] = cost
        weights = bootstrap_weights(len(numbers), self.draws, self.seed).numpy()
        n, delta, divergence = (np.vstack([part.sum(0), weights @ part]) for part in sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            delta, divergence = delta / n, divergence / n
        rows = []
        for column, (feature, of_window) in enumerate(costs.items()):
            value = float(delta[0, column])
            limits = interval(value, delta[1:, column], len(of_window)) or (None, None)
            fires = sum(int(counts[feature]) for counts in firings.values())
            rows.append((feature, fires, len(of_window), value, *limits, float(divergence[0, column])))
        off = np.array([low is not None and not low <= 0 <= high for *_, low, high, _ in rows], np.float64)
        sampled = bootstrap_weights(len(rows), self.draws, derive_seed(self.seed, self.name, "features")).numpy()
        found = {
            "ablation_delta_ce": (float(np.mean(delta[0])), _mean(delta[1:], sampled)),
            "ablation_kl": (float(np.mean(divergence[0])), _mean(divergence[1:], sampled)),
            "ablation_share_nonzero": (float(off.mean()), sampled @ off / len(off)),
        }
        tokens = int(sums[0].sum())
        estimates = {
            name: Estimate(value, *(interval(value, drawn, len(rows)) or (None, None)), tokens)
            for name, (value, drawn) in found.items()
        }
        share = share_interval(int(off.sum()), len(off))
        estimates["ablation_share_nonzero"] = Estimate(float(off.mean()), *share, tokens)
        rows.sort(key=lambda row: -row[3])
        table = Table(COLUMNS, tuple(rows), "Features by what the language model loses without them, nats a token")
        return Result(estimates, {"features": table}, draws={name: drawn for name, (_, drawn) in found.items()})


def _firings(
    subject: Subject, units: Sequence[list[int]], wanted: Collection[int], show_progress: bool
) -> dict[int, Tensor]:
    """Return, of each wanted window, how often each feature fires in it."""
    counts = {}
    for numbers in track(units, len(units), "features to remove", show_progress):
        for window in read_unit(subject, numbers).windows():
            if window.number in wanted:
                counts[window.number] = window.features.counts().to("cpu", torch.int32)
    return counts


def _sample(values: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    return values if len(values) <= n else values[Permutation(len(values), seed)[np.arange(n)]]


def _mean(drawn: NDArray[np.float64], sampled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, in each draw, the mean over the features drawn; one whose windows were not drawn has no say."""
    there = sampled * np.isfinite(drawn)
    return (there * np.nan_to_num(drawn)).sum(1) / np.maximum(there.sum(1), 1.0)

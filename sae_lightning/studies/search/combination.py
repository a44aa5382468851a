"""Which features are active on all of some prompts, and on none of others?"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Le, MinLen
from numpy.typing import NDArray

from sae_lightning.core import UserError
from sae_lightning.studies.search.base_rate import BaseRate, base_rate, of_longest
from sae_lightning.studies.search.prompts import Prompt, read_prompts, reader_of, shown
from sae_lightning.studies.study import Result, Study, Table
from sae_lightning.studies.subject import NEEDS_READER, Subject

COLUMNS = ("feature", "score", "positives", "negatives", "weakest", "density")


class CombinationSearch(Study):
    """Features that are active on every positive prompt and on no negative one, by how surprising that is.

    Active on a prompt: its strongest activation there, over the tokens that the mask keeps, is above 0 and at least
    ``threshold`` of its largest at large. ``score = -log((1/k) sum_j p_j)``, nats, over the k positive prompts: p_j is
    how likely so strong an activation is somewhere on so many tokens of the text at large (see ``PromptSearch``,
    ``max``), 1 where it is silent. The mean is nearly that of its worst prompts, so that one prompt on which a feature
    is very strong does not make up for another on which it is weak; and twice the mean of p-values is itself one,
    whatever their dependence (Vovk and Wang 2020, Combining p-values via averaging).

    Where no feature is active on all and on none, the table has those that come nearest, by the share of positives
    less the share of negatives on which they are active, and a note says so.

    positive, negative: texts; several thousand are fine. n: rows of the table. Columns: the score; the numbers of
    positives and negatives it is active on; its weakest activation on a positive one, as a share of its largest; the
    share of tokens at large on which it is active. The subject needs what ``PromptSearch`` needs.
    """

    name: ClassVar[str] = "search_combination"

    def __init__(
        self,
        positive: Annotated[Sequence[str], MinLen(1)],
        negative: Sequence[str] = (),
        threshold: Annotated[float, Ge(0), Le(1)] = 0.0,
        n: Annotated[int, Ge(1)] = 20,
        show_progress: bool = True,
    ) -> None:
        if not positive:
            raise UserError("all=[]: needs at least one prompt; give all=[...]")
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold={threshold}: must lie between 0 and 1, a share of the largest activation")
        if both := set(positive) & set(negative):
            raise UserError(f"prompt {shown(min(both))}: is in all and in none; no feature can be both")
        self.positive, self.negative = list(positive), list(negative)
        self.threshold, self.n, self.show_progress = threshold, n, show_progress

    def reason(self, subject: Subject) -> str | None:
        return NEEDS_READER if subject.reader is None else None

    def run(self, subject: Subject) -> Result:
        prompts = read_prompts(reader_of(subject, self.name), [*self.positive, *self.negative], show=self.show_progress)
        base = base_rate(subject, self.show_progress)
        positive, negative = prompts[: len(self.positive)], prompts[len(self.positive) :]
        strongest, hits = self._counts(positive, base)
        _, misses = self._counts(negative, base)
        apart = hits / len(positive) - misses / max(1, len(negative))
        strict = np.flatnonzero((hits == len(positive)) & (misses == 0))
        said = f"all {len(positive)} positive and none of {len(negative)} negative prompts"
        if len(strict):
            note = f"{len(strict)} features are active on {said}"
            chosen = strict
        else:
            note = f"no feature is active on {said}; these come nearest"
            fires = np.flatnonzero(hits)
            # Those that may be among the first n: none is left out for a score that was not computed.
            edge = np.sort(apart[fires])[-min(self.n, len(fires)) :]
            chosen = fires[apart[fires] >= edge[0]] if len(fires) else fires
        scored = [self._row(int(feature), positive, strongest, base, hits, misses) for feature in chosen]
        scored.sort(key=lambda row: (-apart[row[0]], -row[1], -row[4], row[0]))
        caption = f"Features of {len(positive)} positive against {len(negative)} negative prompts by surprise, nats"
        table = Table(COLUMNS, tuple(scored[: self.n]), caption)
        return Result({}, {"features": table}, (note, f"base rate: {base.n:,} tokens"))

    def _counts(self, prompts: Sequence[Prompt], base: BaseRate) -> tuple[list[dict[int, float]], NDArray[np.int64]]:
        """Return each prompt's active features with their strongest activation, and each feature's prompts."""
        counts = np.zeros(len(base.count), np.int64)
        out = []
        for prompt in prompts:
            _, index, value = (part.numpy() for part in prompt.features.triples())
            features, place = np.unique(index, return_inverse=True)
            largest = np.zeros(len(features), np.float64)
            np.maximum.at(largest, place, np.abs(value))
            there = largest >= self.threshold * base.largest[features]
            features, largest = features[there], largest[there]
            counts[features] += 1
            out.append(dict(zip(features.tolist(), largest.tolist(), strict=True)))
        return out, counts

    def _row(
        self,
        feature: int,
        prompts: Sequence[Prompt],
        strongest: Sequence[dict[int, float]],
        base: BaseRate,
        hits: NDArray[np.int64],
        misses: NDArray[np.int64],
    ) -> tuple[int, float, int, int, float, float]:
        values = np.array([found.get(feature, 0.0) for found in strongest])
        lengths = np.array([prompt.n_kept for prompt in prompts])
        score = -float(np.log(of_longest(base.tail(feature, values), lengths).mean())) + 0.0
        weakest = base.share(feature, float(values.min()))
        return feature, score, int(hits[feature]), int(misses[feature]), weakest, base.density(feature)

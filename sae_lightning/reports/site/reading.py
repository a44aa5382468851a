"""What the site is written from: one SAE's store and what was found in it; several, and what joins them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_lightning.store import FeatureStore
from sae_lightning.studies.autointerp.explanations import Explanation
from sae_lightning.studies.study import Result

#: Of a training curve: steps and values, of one length.
Curve = tuple[Sequence[float] | NDArray, Sequence[float] | NDArray]


@dataclass(frozen=True)
class Reading:
    """One SAE, read.

    name:       as the reader knows it; a folder of the site is named after it where there are several.
    store:      the features and where they fire.
    results:    by study, what was found. A study that is missing is a section that is missing.
    evaluation: what ``evaluation.json`` holds, where the SAE was evaluated (reports/evaluation_data.py reads it).
    curves:     training curves of the run, by tag.
    notes:      by feature, what somebody wrote about it.
    explanations: by feature, what an explainer said that it means, with scores; the one to show first.
    token_text: the text of a token id, for promoted and suppressed tokens.
    """

    name: str
    store: FeatureStore
    results: Mapping[str, Result] = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    notes: Mapping[int, str] = field(default_factory=dict)
    explanations: Mapping[int, Sequence[Explanation]] = field(default_factory=dict)
    token_text: Callable[[int], str] = str

    def array(self, study: str, name: str) -> NDArray | None:
        """Return a study's numbers per feature; None where it did not run or has none of this name."""
        result = self.results.get(study)
        return None if result is None else result.arrays.get(name)


@dataclass(frozen=True)
class Comparison:
    """What joins several readings.

    closest: by (a, b), of each feature of a the feature of b with the nearest decoder direction, and their cosine:
             (int32 [F_a], -1 for none; float32 [F_a]).
    results: by comparative study (splitting, neighbourhoods, compare), what was found.
    evaluation: what ``evaluation.json`` holds of all of them, under the readings' names, with its ``comparisons``:
             differences, who stands best and what matched are from there. None: each reading's own evaluation, which
             knows of no other, so that there are no such differences.
    """

    closest: Mapping[tuple[str, str], tuple[NDArray[np.integer], NDArray[np.floating]]] = field(default_factory=dict)
    results: Mapping[str, Result] = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None


@dataclass(frozen=True)
class Extent:
    """How much of each feature is shown.

    top, lowest: strongest and weakest examples. bins, per_bin: equal slices of (0, largest], drawn from each.
    before, after: tokens around an example's own. tokens: different top tokens that stand for a feature.
    related: neighbours and co-firing features. members: features of its cluster.
    """

    top: int = 16
    lowest: int = 5
    bins: int = 5
    per_bin: int = 3
    before: int = 12
    after: int = 8
    tokens: int = 5
    related: int = 10
    members: int = 24

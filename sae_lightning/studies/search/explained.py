"""Which features are said to mean this?"""

import math
import re
from collections import Counter
from typing import Annotated, ClassVar

from annotated_types import Ge, MinLen

from sae_lightning.core import UserError
from sae_lightning.studies.autointerp.explanations import Explanations
from sae_lightning.studies.search.prompts import shown
from sae_lightning.studies.study import Result, Study, Table
from sae_lightning.studies.subject import Subject

COLUMNS = ("feature", "score", "found", "by")
# A word's beginning counts for the word from this length on: bridge for bridges.
_STEM = 4


class ExplainedSearch(Study):
    """Features whose explanations hold the words of a concept, rare words counting for more.

    ``score = sum of idf(w) over the concept's words found / sum over all of them``, in (0, 1];
    ``idf(w) = ln(1 + N / (1 + N_w))``, N explained features, N_w those with w. A word is found where a word of the
    explanation is the same, or one of the two, of at least four letters, is how the other begins; case does not matter.
    Of a feature's explanations the best counts; of equal scores the lower feature comes first.

    concept: words. explanations: of the subject's SAE. n: rows of the table.
    Raises UserError for a concept without words.
    """

    name: ClassVar[str] = "search_explained"

    def __init__(
        self, concept: Annotated[str, MinLen(1)], explanations: Explanations, n: Annotated[int, Ge(1)] = 20
    ) -> None:
        self.concept, self.explanations, self.n = concept, explanations, n
        self.words = sorted(set(_words(concept)))
        if not self.words:
            raise UserError(f"concept={concept!r}: has no word in it; give one")

    def run(self, subject: Subject) -> Result:
        found: dict[int, tuple[set[str], str]] = {}
        everywhere: Counter[str] = Counter()
        for feature, said in self.explanations.features.items():
            hits = [(set(self._hits(_words(one.text))), one.by) for one in said]
            everywhere.update(set().union(*(words for words, _ in hits)))
            if any(words for words, _ in hits):
                found[feature] = max(hits, key=lambda hit: len(hit[0]))
        n = len(self.explanations.features)
        idf = {word: math.log1p(n / (1 + everywhere[word])) for word in self.words}
        whole = sum(idf.values())
        rows = [
            (feature, sum(idf[word] for word in words) / whole if whole else 1.0, " ".join(sorted(words)), by)
            for feature, (words, by) in found.items()
        ]
        rows.sort(key=lambda row: (-row[1], row[0]))
        notes = (f"{len(rows):,} of {n:,} explained features have one of the words",)
        caption = f"Features explained with {shown(self.concept)}"
        return Result({}, {"features": Table(COLUMNS, tuple(rows[: self.n]), caption)}, notes)

    def _hits(self, words: list[str]) -> list[str]:
        return [mine for mine in self.words if any(_same(mine, word) for word in words)]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _same(a: str, b: str) -> bool:
    short, long = sorted((a, b), key=len)
    return a == b or (len(short) >= _STEM and long.startswith(short))

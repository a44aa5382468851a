"""Explanations without a language model as judge: the token patterns that a unit fires on."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from sae_lightning.core import Estimate, UserError, derive_seed
from sae_lightning.studies.autointerp.explainers.foretelling import foretold
from sae_lightning.studies.autointerp.explainers.natural import Observe
from sae_lightning.studies.autointerp.explainers.patterns import Trie, described, merged
from sae_lightning.studies.autointerp.explainers.pruning import Suffix, importance, shortest, with_wildcards
from sae_lightning.studies.autointerp.explainers.unit_reads import Reads
from sae_lightning.studies.autointerp.explanations import Explanation
from sae_lightning.studies.autointerp.records import Record, Stretch, Unit
from sae_lightning.studies.progress import track

Share = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class Found:
    """What was found of a unit: its patterns, and how well they foretell where it fires.

    stretches: how many were looked at. beyond: how many of them are not explained by their own tokens. scores:
    precision, recall, F1 and correlation on text that no pattern is from; empty where there is none.
    """

    trie: Trie
    stretches: int
    beyond: int
    scores: Mapping[str, Estimate] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        scores = {name: asdict(score) for name, score in self.scores.items()}
        return {
            "patterns": self.trie.to_json(),
            "stretches": self.stretches,
            "beyond": self.beyond,
            "scores": scores,
        }


class N2G:
    """Neuron to Graph: of ``stretches`` shown of a unit, evenly of all levels, what each needs, joined in a trie.

    A stretch with activation a on its token t becomes a pattern in three steps, all of them readings of the unit on
    token ids alone (after the token that windows begin with):

    1. The shortest suffix up to t on which the activation at t is at least ``keep`` times a. A stretch of which the
       whole does not suffice gives no pattern.
    2. Each token's importance, ``1 - b' / b``: b is the activation at t of the suffix read alone, b' its mean after the
       token has been replaced by each of ``replacements`` tokens of the corpus, drawn once (where a replacement does
       more than the token, it counts as much). Tokens with an importance below ``important`` become wildcards, t itself
       among them.
    3. With all wildcards replaced at once, ``keep`` of b must still be there in the mean; else the most important of
       them become literal again, as few as are needed.

    Equal patterns are one; all are put in a trie from t backwards. On new text, of the patterns that end on a token the
    one with the most literal tokens, of those the longest, foretells its mean activation; where none ends, 0. A
    wildcard is one token of any kind.

    Scores (where ``observe`` gives natural text): precision, recall and F1 of "fires" per token, and the correlation of
    foretold and real activation; see ``foretold``. They are exact on that text: nothing in it is chosen by what the
    unit does.

    No language model makes further texts of a stretch, so a unit that fires on many words alike is explained by those
    that were seen. An absolute position is not looked for.

    reads: gives what reads a unit. pool: tokens of the corpus that replacements are drawn from, no special ones.

    Source: Foote et al. 2023, "Neuron to Graph: Interpreting Language Model Neurons at Scale"; in the form of Gao et
    al. 2024, "Scaling and evaluating sparse autoencoders", section 4.3: half of the activation, wildcards by
    replacement, up to 16 examples. Different from both: replacements are ordinary tokens instead of padding, which to
    a language model often means that a text ends; wildcards must hold together.
    """

    name: ClassVar[str] = "n2g"

    def __init__(
        self,
        reads: Callable[[Unit], Reads],
        pool: NDArray[np.integer] | Sequence[int],
        observe: Observe | None = None,
        *,
        stretches: Annotated[int, Ge(1)] = 16,
        keep: Share = 0.5,
        important: Share = 0.5,
        replacements: Annotated[int, Ge(1)] = 4,
        shown: Annotated[int, Ge(1)] = 8,
        draws: Annotated[int, Ge(100)] = 1000,
        seed: int = 0,
        show_progress: bool = True,
    ) -> None:
        for name, value, fine in (
            ("stretches", stretches, stretches >= 1),
            ("keep", keep, 0 < keep <= 1),
            ("important", important, 0 < important <= 1),
            ("replacements", replacements, replacements >= 1),
        ):
            if not fine:
                rule = "must be above 0, at most 1" if name in ("keep", "important") else "must be at least 1"
                raise UserError(f"explainer.{name}={value}: {rule}")
        self.reads, self.observe = reads, observe
        self.stretches, self.keep, self.important, self.shown = stretches, keep, important, shown
        self.draws, self.seed, self.show_progress = draws, seed, show_progress
        different = np.unique(np.asarray(pool, np.int64))
        if not len(different):
            raise ValueError("n2g needs tokens to replace others with")
        rng = np.random.default_rng(derive_seed(seed, "autointerp", "n2g"))
        self.others = rng.permutation(different)[:replacements]
        self.found: dict[Unit, Found] = {}

    def explain(self, records: Sequence[Record]) -> list[Explanation | None]:
        """Return each unit's patterns in words, and keep what they are in ``found``; None where there are none."""
        out: list[Explanation | None] = []
        for record in track(records, len(records), "token patterns", self.show_progress):
            found = self.find(record)
            self.found[record.unit] = found
            patterns = found.trie.patterns
            scores = {name: one.value for name, one in found.scores.items() if one.value is not None}
            out.append(Explanation(described(patterns, self.shown), self.name, scores) if patterns else None)
        return out

    def details(self, unit: Unit) -> dict[str, Any] | None:
        """Return what was found of a unit as plain values: every pattern, and scores with their intervals."""
        return self.found[unit].to_json() if unit in self.found else None

    def find(self, record: Record) -> Found:
        """Return what is found of one unit."""
        reads = self.reads(record.unit)
        chosen = _spread([one for one in record.shown if one.values[one.at] > 0], self.stretches)
        whole = shortest(reads, [Suffix.of(one) for one in chosen], self.keep)
        short = [one for one in whole if one is not None]
        values = importance(reads, short, self.others) if short else []
        patterns = with_wildcards(reads, short, values, self.others, self.important, self.keep) if short else []
        trie = Trie(merged(patterns))
        scores: dict[str, Estimate] = {}
        if self.observe is not None:
            natural = self.observe(record)
            told = trie.predict(natural.token_ids, natural.begin)
            scores = foretold(natural, told, draws=self.draws, seed=self.seed)
        return Found(trie, len(chosen), len(chosen) - len(short), scores)


def _spread(stretches: Sequence[Stretch], n: int) -> list[Stretch]:
    """Return at most n stretches, as many of every level as there are, within a level in the order given."""
    seen: Counter[int] = Counter()
    turns = []
    for number, one in enumerate(stretches):
        turns.append((seen[one.level], -one.level, number))
        seen[one.level] += 1
    return [stretches[number] for _, _, number in sorted(turns)[:n]]

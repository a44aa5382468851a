"""What is said of samples that were written one way: figures over all of them, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sae_lightning.core import Estimate
from sae_lightning.metrics import interval
from sae_lightning.studies.shares import share
from sae_lightning.studies.steering.concept import all_words, concept_words
from sae_lightning.studies.steering.fluency import perplexity
from sae_lightning.studies.steering.repetition import distinct, repeated
from sae_lightning.studies.steering.samples import Sample

#: Figures of a dose, in the order in which they are shown. ``words`` and ``word_rate`` need words to look for.
FIGURES: tuple[str, ...] = (
    "steered_activation",
    "steered_fires",
    "steered_words",
    "steered_word_rate",
    "steered_perplexity",
    "steered_nats",
    "steered_repetition",
    "steered_distinct",
)
#: Those that are shares of samples, whose intervals are exact.
_OF_SAMPLES = "steered_words"


@dataclass(frozen=True)
class Sums:
    """What each of n samples gives to the figures, a number each.

    tokens: generated. kept: of those, the ones that the mask leaves in. shown: sum over kept tokens of
    ``activation / maximum``. fires: kept tokens with an activation. hits: concept words; words: all words.
    nats: sum of cross-entropies. repeated, distinct: of the sample, NaN where it is too short.
    """

    tokens: Float[NDArray, "n"]
    kept: Float[NDArray, "n"]
    shown: Float[NDArray, "n"]
    fires: Float[NDArray, "n"]
    hits: Float[NDArray, "n"]
    words: Float[NDArray, "n"]
    nats: Float[NDArray, "n"]
    repeated: Float[NDArray, "n"]
    distinct: Float[NDArray, "n"]


def sums(
    samples: Sequence[Sample], column: int, maximum: float, words: Sequence[str], prompts: Mapping[int, str]
) -> Sums:
    """Return what each sample gives to the figures of one feature.

    column: of the samples' ``values``. maximum: the activation that counts as 1. words: the concept's. prompts: the
    text of each, by number.
    """

    def hits(sample: Sample) -> int:
        prompt = prompts[sample.prompt]
        return concept_words(prompt + sample.text, words, len(prompt))

    rows = [
        (
            len(sample.token_ids),
            sample.kept.sum(),
            sample.values[sample.kept, column].sum(dtype=np.float64) / maximum,
            (sample.values[sample.kept, column] != 0).sum(),
            hits(sample),
            all_words(sample.text),
            sample.nats.sum(dtype=np.float64),
            _or_nan(repeated(sample.token_ids.tolist())),
            _or_nan(distinct(sample.token_ids.tolist())),
        )
        for sample in samples
    ]
    return Sums(*np.array(rows, np.float64).reshape(len(samples), 9).T)


def drawn(each: Sums, weights: Float[NDArray, "k n"], words: bool) -> dict[str, Float[NDArray, "k"]]:
    """Return every figure under each row of weights: how often each sample is in it. NaN where it is not defined.

    - ``steered_activation = sum f / max over kept generated tokens / their number``, f of the clean reading;
    - ``steered_fires``: share of those tokens with f != 0;
    - ``steered_words``: share of samples with a word of the concept; ``steered_word_rate``: such words over all words;
    - ``steered_perplexity = exp(steered_nats)``, ``steered_nats``: mean over generated tokens of ``-log p`` under the
      unsteered model;
    - ``steered_repetition``: ``repeated``, mean over samples with three tokens and more; ``steered_distinct``:
      ``distinct``, mean over samples with any.
    """

    def ratio(over: NDArray, under: NDArray) -> NDArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ over) / (weights @ under)

    def mean(values: NDArray) -> NDArray:
        there = np.isfinite(values)
        return ratio(np.where(there, values, 0.0), there.astype(np.float64))

    tokens = weights @ each.tokens
    found = {
        "steered_activation": ratio(each.shown, each.kept),
        "steered_fires": ratio(each.fires, each.kept),
        "steered_perplexity": perplexity(weights @ each.nats, tokens),
        "steered_nats": ratio(each.nats, each.tokens),
        "steered_repetition": mean(each.repeated),
        "steered_distinct": mean(each.distinct),
    }
    if words:
        found["steered_words"] = mean((each.hits > 0).astype(np.float64))
        found["steered_word_rate"] = ratio(each.hits, each.words)
    return {name: found[name] for name in FIGURES if name in found}


def estimates(
    each: Sums, weights: Float[NDArray, "k n"], words: bool
) -> tuple[dict[str, Estimate], dict[str, Float[NDArray, "k"]]]:
    """Return (figures with intervals, their bootstrap draws).

    Intervals: a bootstrap over samples, None where all samples are alike, as where no text has a word: that is no
    certainty, and resampling can't tell how far from it. The interval of ``steered_words`` is Clopper and Pearson's.
    Estimates count generated tokens; ``steered_words`` counts samples.
    """
    n = len(each.tokens)
    values = drawn(each, np.ones((1, n)), words)
    draws = drawn(each, weights, words)
    out: dict[str, Estimate] = {}
    for name, one in values.items():
        value = float(one[0])
        if name == _OF_SAMPLES:
            out[name] = share(int((each.hits > 0).sum()), n)
        elif not np.isfinite(value):
            out[name] = Estimate(None, None, None, int(each.tokens.sum()))
        else:
            alike = np.ptp(draws[name][np.isfinite(draws[name])]) <= 1e-12 * abs(value) if n > 1 else True
            limits = None if alike else interval(value, draws[name], n)
            out[name] = Estimate(value, *(limits or (None, None)), int(each.tokens.sum()))
    return out, draws


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value

"""Where does a feature fire? Its strongest, weakest and typical tokens with the text around them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from jaxtyping import Float
from numpy.typing import NDArray

from sae_lightning.core import UserError
from sae_lightning.store import Context, FeatureStore
from sae_lightning.studies.firings import firings_by_text
from sae_lightning.studies.progress import track
from sae_lightning.studies.study import Cell, Result, Study, Table
from sae_lightning.studies.subject import NEEDS_STORE, Subject

Kind = Literal["top", "quantile", "lowest"]

# Tokens that are looked at for one that is shown, where texts repeat each other.
_LOOKED_AT = 16
# A feature that is active on a larger share of tokens says little about any of them.
_DENSE = 0.1


@dataclass(frozen=True)
class Example:
    """A token on which a feature is active, and the text around it.

    token: its number in the store. value: its activation, with its sign. low, high: of a quantile sample, the slice
    (low, high] that its |activation| is from.
    """

    kind: Kind
    token: int
    value: float
    context: Context
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Examples:
    """What is shown of a feature: top (strongest first), quantiles (strongest slice first), lowest (weakest first).

    skipped: tokens that were left out because their context was that of an earlier one.
    """

    feature: int
    top: tuple[Example, ...]
    quantiles: tuple[Example, ...]
    lowest: tuple[Example, ...]
    skipped: int = 0

    def __iter__(self) -> Iterator[Example]:
        yield from (*self.top, *self.quantiles, *self.lowest)


def examples_of(
    store: FeatureStore,
    feature: int,
    *,
    top: int = 20,
    lowest: int = 5,
    bins: int = 5,
    per_bin: int = 3,
    before: int = 10,
    after: int = 10,
    unit: Literal["tokens", "words"] = "tokens",
    distinct: bool = True,
    seed: int = 0,
) -> Examples:
    """Return a feature's examples: the ``top`` strongest tokens, the ``lowest`` weakest, and samples in between.

    Strong and weak go by |activation|: AbsTopK's may be negative. bins, per_bin: slices of equal width of (0, largest
    |activation|], and how many tokens are drawn from each with ``seed`` (``FeatureStore.quantile_samples``). before,
    after, unit: how much of the text comes along. distinct: news and code repeat themselves, so a token whose context,
    to the letter, is that of one already shown is left out among the top and the lowest, and the next one takes its
    place; samples are drawn from all tokens. 16 tokens are looked at for each that is shown, no more: fewer are shown
    where even so all are alike, and where the feature fires on fewer. Any of the numbers may be 0.
    """

    def example(kind: Kind, token: int, value: float, low: float | None = None, high: float | None = None) -> Example:
        return Example(kind, int(token), float(value), store.context(int(token), before, after, unit), low, high)

    def extremes(kind: Kind, n: int) -> tuple[list[Example], int]:
        found: list[Example] = []
        shown: set[str] = set()
        looked = skipped = 0
        # Most features need no more than a few extra; each round asks for the whole of what it needs at once.
        for wanted in (n + n // 4, _LOOKED_AT * n) if n and distinct else (n,) if n else ():
            hits = store.top_tokens(feature, wanted, lowest=kind == "lowest")
            for token, value in zip(hits.tokens[looked:].tolist(), hits.values[looked:].tolist(), strict=True):
                if len(found) == n:
                    break
                looked += 1
                one = example(kind, token, value)
                text = one.context.before + one.context.token + one.context.after
                if distinct and text in shown:
                    skipped += 1
                    continue
                shown.add(text)
                found.append(one)
            if len(found) == n or len(hits.tokens) < wanted:
                break
        return found, skipped

    store.check_feature(feature)
    strongest, skipped = extremes("top", top)
    weakest, more = extremes("lowest", lowest)
    samples = store.quantile_samples(feature, bins, per_bin, seed) if bins and per_bin else []
    drawn = tuple(
        example("quantile", token, value, sample.low, sample.high)
        for sample in samples
        for token, value in zip(sample.tokens.tolist(), sample.values.tolist(), strict=True)
    )
    return Examples(int(feature), tuple(strongest), drawn, tuple(weakest), skipped + more)


def informative(store: FeatureStore, n: int, information: Float[NDArray, "d_sae"] | None = None) -> list[int]:
    """Return the n features that say most about which text one reads (``Firings.information``), the most first.

    information: where it is known already (array of ``DensityStudy``). Features that never are active are left out,
    and those that are on more than 10 % of the tokens, unless all that are active at all are (small SAEs).
    """
    if information is None:
        information = firings_by_text(store, show_progress=False).information()
    able = np.asarray(store.stats.count > 0)
    if not _all_dense(store):
        able &= store.stats.count <= _DENSE * store.n_kept
    order = np.argsort(np.where(able, -information, np.inf), kind="stable")
    return [int(i) for i in order[: min(n, int(able.sum()))]]


def _all_dense(store: FeatureStore) -> bool:
    """Whether every feature that fires does so on more than 10 % of the tokens."""
    count = store.stats.count
    return not ((count > 0) & (count <= _DENSE * store.n_kept)).any()


class ContextsStudy(Study):
    """Tokens on which features are strongest, weakest, and some in between, with the text around them.

    features: numbers of those to show; None: the ``n_features`` most ``informative``. The rest is ``examples_of``'s.
    The table ``examples`` has a row each: feature, kind (top, quantile, lowest), value (its sign kept), before, token,
    after, text (its number in the store), position (in the text, in tokens) and the text's title. Masked tokens are
    context, never examples. Raises UserError for numbers that the store has no feature for, and for none at all.
    """

    name: ClassVar[str] = "contexts"
    reads_store: ClassVar[bool] = True

    def __init__(
        self,
        features: list[int] | None = None,
        n_features: Annotated[int, Ge(1)] = 20,
        top: Annotated[int, Ge(0)] = 10,
        lowest: Annotated[int, Ge(0)] = 3,
        bins: Annotated[int, Ge(0)] = 5,
        per_bin: Annotated[int, Ge(0)] = 2,
        before: Annotated[int, Ge(0)] = 10,
        after: Annotated[int, Ge(0)] = 10,
        unit: Literal["tokens", "words"] = "tokens",
        distinct: bool = True,
        seed: int = 0,
        show_progress: bool = True,
    ) -> None:
        if features is not None and not features:
            raise UserError("features=[]: names no feature; give some, or null for the most informative")
        if not (top or lowest or (bins and per_bin)):
            raise UserError("top=0, lowest=0, per_bin=0: leaves nothing to show; raise one of them")
        self.features, self.n_features, self.show_progress = features, n_features, show_progress
        self.top, self.lowest, self.bins, self.per_bin = top, lowest, bins, per_bin
        self.before, self.after = before, after
        self.unit: Literal["tokens", "words"] = unit
        self.distinct, self.seed = distinct, seed

    def reason(self, subject: Subject) -> str | None:
        return NEEDS_STORE if subject.store is None else None

    def run(self, subject: Subject) -> Result:
        store = subject.store
        assert store is not None
        features = self.features or informative(store, self.n_features)
        chosen = [store.check_feature(feature) for feature in dict.fromkeys(features)]
        rows: list[tuple[Cell, ...]] = []
        silent, skipped = [], 0
        for feature in track(chosen, len(chosen), self.name, self.show_progress):
            examples = self.examples(store, feature)
            skipped += examples.skipped
            found = [_row(feature, example) for example in examples]
            if not found:
                silent.append(feature)
            rows += found
        columns = ("feature", "kind", "value", "before", "token", "after", "text", "position", "title")
        chosen_how = "given" if self.features else "that say most about which text one reads"
        caption = f"{len(chosen):,} features {chosen_how}"
        notes = _notes(silent, skipped)
        if not self.features and not chosen:
            notes += ("no feature is active in this store",)
        elif not self.features and _all_dense(store):
            notes += (
                f"all features that are active are so on more than {_DENSE:.0%} of the tokens: shown all the same",
            )
        return Result({}, {"examples": Table(columns, tuple(rows), caption)}, notes)

    def examples(self, store: FeatureStore, feature: int) -> Examples:
        """Return one feature's examples as these settings have them."""
        return examples_of(
            store,
            feature,
            top=self.top,
            lowest=self.lowest,
            bins=self.bins,
            per_bin=self.per_bin,
            before=self.before,
            after=self.after,
            unit=self.unit,
            distinct=self.distinct,
            seed=self.seed,
        )


def _row(feature: int, example: Example) -> tuple[Cell, ...]:
    context = example.context
    shown = (context.before, context.token, context.after, context.text, context.position)
    return feature, example.kind, example.value, *shown, context.meta.get("title", "")


def _notes(silent: Sequence[int], skipped: int) -> tuple[str, ...]:
    notes = []
    if silent:
        notes.append(f"never active in this store: features {', '.join(map(str, silent))}")
    if skipped:
        notes.append(f"{skipped:,} tokens were left out: their context was that of one shown, to the letter")
    return tuple(notes)

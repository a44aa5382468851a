"""Recording units: which stretches of a store's text are shown to who explains them, and which are kept for scoring."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from sae_lightning.core import UserError, derive_seed
from sae_lightning.store import FeatureStore
from sae_lightning.studies.autointerp.explainers.natural import Natural
from sae_lightning.studies.autointerp.records import SILENT, Record, Stretch, Unit

# Candidates that are looked at for one that is taken: most are left out for standing beside a stronger token.
_LOOKED_AT = 200


class Active(NamedTuple):
    """Where a unit is active: tokens of the store, ascending, and its activations there, all above ``floor``."""

    tokens: Int[NDArray, "m"]
    values: Float[NDArray, "m"]
    floor: float = 0.0


class Firings(Protocol):
    """Says where units are active."""

    def of(self, unit: Unit) -> Active: ...


@dataclass(frozen=True)
class FeatureFirings:
    """Features of a store on its first ``n_tokens`` tokens. What is below 0 (AbsTopK) does not count as active."""

    store: FeatureStore
    n_tokens: int

    def of(self, unit: Unit) -> Active:
        tokens, values = self.store.column(unit.index)
        end = int(np.searchsorted(tokens, self.n_tokens))
        tokens, values = tokens[:end], values[:end]
        positive = values > 0
        return Active(tokens[positive].astype(np.int64), np.asarray(values[positive], np.float32))


@dataclass(frozen=True)
class Recipe:
    """How much is recorded of a unit.

    context: tokens of a stretch, three quarters of them before the token it is chosen for. top: strongest stretches
    shown to the explainer; from_level: more of them, from each level. levels: equal slices of (floor, largest].
    held: stretches of each level kept for scoring. silent: stretches without any activation, for scoring. near: draw
    those from texts in which the unit is active elsewhere, where there are such: what tells them apart is then not the
    subject of the text alone.
    """

    context: int = 32
    top: int = 8
    from_level: int = 1
    levels: int = 5
    held: int = 2
    silent: int = 10
    near: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"context": 4, "top": 1, "from_level": 0, "levels": 1, "held": 1, "silent": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UserError(f"record.{name}={getattr(self, name)}: must be at least {low}")


class StretchRecorder:
    """Records of units from a store's text and what says where they are active.

    The texts of the first ``n_tokens`` tokens are dealt into two halves by ``seed``, the same for every unit: what is
    shown comes from the first, what is scored from the second. A stretch lies within one text. Its level is that of the
    strongest token in it, which is the token it was chosen for; of one kind, stretches come from as many texts as
    there are, never overlap and are never the same to the letter, and none that was shown is scored. A level with too
    few such tokens has fewer stretches. Silent stretches are drawn evenly among all places of the second half's texts
    where no token of the stretch is active. Every draw has a seed of its own: a unit's record is the same whichever
    others are recorded.
    """

    def __init__(self, store: FeatureStore, n_tokens: int, firings: Firings, recipe: Recipe) -> None:
        self.store, self.firings, self.recipe = store, firings, recipe
        self.n_tokens = min(n_tokens, store.n_tokens)

    def records(self, units: Sequence[Unit]) -> Iterator[Record]:
        """Yield the record of each unit, in order. Raises UserError for one that is never active on these tokens."""
        for unit in units:
            yield self._record(unit)

    def scored(self, unit: Unit) -> Natural:
        """Return a unit's activations on the texts that are for scoring, all of their tokens that are looked at."""
        tokens, values, _ = self.firings.of(unit)
        places = np.flatnonzero(self._scored[self._texts])
        dense = np.zeros(self.n_tokens, np.float32)
        dense[tokens] = values
        ids = np.asarray(self.store.token_ids[: self.n_tokens], np.int64)
        kept = np.asarray(self.store.kept[: self.n_tokens], np.bool_)
        return Natural(ids[places], self._texts[places], kept[places], dense[places])

    @cached_property
    def _texts(self) -> Int[NDArray, "n"]:
        return np.asarray(self.store.text_index[: self.n_tokens], np.int64)

    @cached_property
    def _scored(self) -> Bool[NDArray, "texts"]:
        """Which texts are for scoring."""
        n = int(self._texts[-1]) + 1
        order = np.random.default_rng(derive_seed(self.recipe.seed, "autointerp", "halves")).permutation(n)
        scored = np.zeros(n, np.bool_)
        scored[order[: n // 2]] = True
        return scored

    @cached_property
    def _n_kept(self) -> int:
        return int(np.count_nonzero(self.store.kept[: self.n_tokens]))

    @cached_property
    def _spans(self) -> tuple[Int[NDArray, "n"], Int[NDArray, "n"]]:
        """First token and end of the stretch around every token: as long as ``context``, or as its text."""
        starts = np.asarray(self.store.text_starts, np.int64)
        begin, end = starts[self._texts], np.minimum(starts[self._texts + 1], self.n_tokens)
        first = np.maximum(begin, np.arange(self.n_tokens) - 3 * self.recipe.context // 4)
        last = np.minimum(end, first + self.recipe.context)
        return np.maximum(begin, last - self.recipe.context), last

    def _record(self, unit: Unit) -> Record:
        active = self.firings.of(unit)
        tokens, values = active.tokens, active.values
        if not len(tokens):
            raise UserError(f"{unit}: is never active on the {self.n_tokens:,} tokens looked at; raise tokens")
        recipe = self.recipe
        picker = _Picker(self, active)
        rng = np.random.default_rng(derive_seed(recipe.seed, "autointerp", unit.kind, unit.layer, unit.index))
        scored = self._scored[self._texts[tokens]]
        strongest = np.lexsort((tokens, -values))
        shown = picker.pick(strongest[~scored[strongest]], recipe.top)
        drawn = rng.permutation(len(tokens))
        shown += self._of_levels(picker, drawn[~scored[drawn]], recipe.from_level)
        held = self._of_levels(picker, drawn[scored[drawn]], recipe.held)
        silent = self._silent(picker, rng, tokens)
        density = len(tokens) / max(1, self._n_kept)
        return Record(unit, float(values.max()), density, tuple(shown), tuple(held), tuple(silent), active.floor)

    def _of_levels(self, picker: "_Picker", order: Int[NDArray, "m"], n: int) -> list[Stretch]:
        """Return n stretches of each level, the strongest level first."""
        out: list[Stretch] = []
        for level in reversed(range(self.recipe.levels)) if n else ():
            out += picker.pick(order[picker.level[order] == level], n)
        return out

    def _silent(self, picker: "_Picker", rng: np.random.Generator, tokens: Int[NDArray, "m"]) -> list[Stretch]:
        first, last = self._spans
        before = np.zeros(self.n_tokens + 1, np.int64)
        np.cumsum(np.bincount(tokens, minlength=self.n_tokens), out=before[1:])
        places = np.flatnonzero((before[last] == before[first]) & self._scored[self._texts])
        if self.recipe.near:
            active = np.isin(self._texts[places], self._texts[tokens])
            places = places[active] if active.any() else places
        return picker.pick_places(rng.permutation(places), self.recipe.silent)


class _Picker:
    """Takes stretches of one unit, and none twice."""

    def __init__(self, recorder: StretchRecorder, active: Active) -> None:
        self._recorder = recorder
        self._tokens, self._values, floor = active
        levels = recorder.recipe.levels
        edges = np.linspace(floor, float(self._values.max()), levels + 1)[1:]
        self.level = np.minimum(np.searchsorted(edges, self._values.astype(np.float64), side="left"), levels - 1)
        self._seen: set[bytes] = set()

    def pick(self, order: Int[NDArray, "m"], n: int) -> list[Stretch]:
        """Return up to n stretches around active tokens, given by their numbers in an order of preference."""

        def taken(number: int) -> Stretch | None:
            stretch = self._stretch(int(self._tokens[number]), int(self.level[number]))
            return stretch if stretch.values[stretch.at] >= stretch.values.max() else None

        return self._pick(order, self._tokens[order], n, taken)

    def pick_places(self, places: Int[NDArray, "m"], n: int) -> list[Stretch]:
        """Return up to n silent stretches around these tokens of the store."""
        return self._pick(places, places, n, lambda place: self._stretch(int(place), SILENT))

    def _pick(self, order: NDArray, tokens: NDArray, n: int, take: Callable[[int], Stretch | None]) -> list[Stretch]:
        """Take the first n that do: those of new texts first, then others that do not overlap."""
        order, tokens = order[: n * _LOOKED_AT], tokens[: n * _LOOKED_AT]
        texts = self._recorder._texts[tokens]
        context, chosen, where = self._recorder.recipe.context, [], []
        for anew in (True, False):
            for number, token, text in zip(order.tolist(), tokens.tolist(), texts.tolist(), strict=True):
                if len(chosen) == n:
                    return chosen
                mine = [place for place, other in where if other == text]
                if (mine and anew) or any(abs(place - token) < 2 * context for place in mine):
                    continue
                stretch = take(number)
                if stretch is not None and (key := stretch.token_ids.tobytes()) not in self._seen:
                    self._seen.add(key)
                    chosen.append(stretch)
                    where.append((token, text))
        return chosen

    def _stretch(self, token: int, level: int) -> Stretch:
        store = self._recorder.store
        first, last = (int(bound[token]) for bound in self._recorder._spans)
        values = np.zeros(last - first, np.float32)
        begin, end = np.searchsorted(self._tokens, [first, last])
        values[self._tokens[begin:end] - first] = self._values[begin:end]
        ids = np.asarray(store.token_ids[first:last], np.int64)
        text = int(store.text_index[token])
        return Stretch(tuple(store.pieces(first, last)), ids, values, token - first, text, level)

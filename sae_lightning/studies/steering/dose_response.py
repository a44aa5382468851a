"""How does what a language model writes change with how hard a feature is pushed?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, MinLen
from jaxtyping import Int
from numpy.typing import NDArray

from sae_lightning.core import Estimate, UserError, derive_seed
from sae_lightning.metrics import bootstrap_weights, interval
from sae_lightning.metrics.bootstrap import FEWEST
from sae_lightning.store import Reader
from sae_lightning.studies.progress import track
from sae_lightning.studies.steering.edits import FeatureEdit, add, clamp, scale
from sae_lightning.studies.steering.generate import Sampling, check_prompt, generate
from sae_lightning.studies.steering.samples import Group, Sample, Variant, read_again
from sae_lightning.studies.steering.scores import FIGURES, estimates, sums
from sae_lightning.studies.steering.steering import Positions, Steering
from sae_lightning.studies.study import Cell, Result, Table
from sae_lightning.studies.windows import DRAWS

#: Beginnings that ask for nothing in particular.
NEUTRAL = ("I think that", "The weather today is", "Last week we went to", "My friend told me about")
#: Names of what is written without pushing the feature.
AS_IS = "as is"
UNSTEERED = "unsteered"
#: Figures whose change against ``AS_IS`` is told.
CHANGES = ("steered_activation", "steered_word_rate", "steered_nats", "steered_repetition")
Mode = Literal["clamp", "add", "scale"]


@dataclass(frozen=True)
class Doses:
    """A dose-response: the figures, and every sample behind them. groups: one a feature, its variants by strength."""

    result: Result
    prompts: tuple[str, ...]
    groups: tuple[Group, ...]


class DoseResponse:
    """What a language model writes under a feature at several strengths: concept, perplexity, repetition.

    Every prompt is gone on with ``samples`` times as it is, and under each strength; sample i has the same random draws
    in all of them, so differences are of the strength. Of every strength (``scores.drawn`` has the formulas):

    - ``steered_activation``, ``steered_fires``: how strongly the text shows the feature in a reading without steering,
      as a share of its maximum. Partly what was pushed: the model was made to write what the SAE then finds.
    - ``steered_words``, ``steered_word_rate``: how often the text has the concept's words, which the SAE has no say in.
    - ``steered_perplexity``, ``steered_nats``: how surprising the text is to the unsteered model, in the tokens that it
      was written in. Those of a broken text are often not the ones that its characters are cut into.
    - ``steered_repetition``, ``steered_distinct``: how much it says again.

    Names are ``FIGURE/FEATURE/VARIANT``. Intervals: a bootstrap over the samples of all prompts, the same draws for
    every strength; so they say what other samples would give, and little of other prompts. Table ``doses``: the figures
    of every feature and strength. Table ``changes``: against the text as it is, pairs of samples with the same draws.

    strengths: factors of the feature's maximum; under ``scale`` factors of its own activation.
    mode: clamp: the feature has the strength on every token; add: it has that much more; scale: that many times as
        much, which does nothing where it is not active.
    prompts: what is gone on with. samples: of each prompt; at temperature 0 all would be the same, and one is made.
    concept: words that tell the concept, of each feature, or of all alike.
    keep_error: whether the SAE's error stays; else its reconstruction is written, ``as is`` too, and ``unsteered`` is a
        variant of its own.
    positions: which tokens the feature is pushed on; see ``Steering``.
    sampling: see ``Sampling``. draws: of the bootstrap.

    Source: "Scaling Monosemanticity" (Templeton et al. 2024) clamps features to multiples of their maximum, -10 to 10.

    Raises UserError: no strengths, one that is not a number, a feature that never fires, a prompt without tokens or
    room, positions outside one.
    """

    name: ClassVar[str] = "dose_response"

    def __init__(
        self,
        strengths: Annotated[Sequence[float], MinLen(1)] = (-10, -5, -2, 0, 1, 2, 5, 10),
        mode: Mode = "clamp",
        prompts: Annotated[Sequence[str], MinLen(1)] = NEUTRAL,
        samples: Annotated[int, Ge(1)] = 4,
        concept: Mapping[int, Sequence[str]] | Sequence[str] = (),
        keep_error: bool = True,
        positions: Positions = "all",
        sampling: Sampling | None = None,
        draws: Annotated[int, Ge(100)] = DRAWS,
        show_progress: bool = True,
    ) -> None:
        for strength in strengths:
            if isinstance(strength, bool) or not math.isfinite(strength):
                raise UserError(f"dose: strength {strength} is not a finite number; give factors such as 5")
        if not strengths or not prompts:
            raise UserError(f"{'dose' if not strengths else 'prompt'}: is empty; give at least one")
        self.strengths = tuple(sorted({float(s) for s in strengths}))
        self.mode: Mode = mode
        self.prompts = tuple(prompts)
        self.sampling = Sampling(max_tokens=40) if sampling is None else sampling
        self.samples = samples if self.sampling.temperature > 0 else 1
        self.concept = concept
        self.keep_error, self.positions = keep_error, positions
        self.draws, self.show_progress = draws, show_progress

    def run(self, reader: Reader, maxima: Mapping[int, float]) -> Doses:
        """Push every feature of ``maxima``, one at a time. maxima: its largest |activation| on the store."""
        features = tuple(maxima)
        if not features:
            raise UserError("features: none is given; name at least one")
        for feature, maximum in maxima.items():
            if not maximum > 0:
                raise UserError(f"feature {feature}: never fires on the store, so it has no maximum; choose another")
        ids = [reader.cut(prompt)[1] for prompt in self.prompts]
        for one in ids:
            check_prompt(reader, one, self.sampling, Steering(reader, {}, positions=self.positions))
        # Without edits and yet the same way through the language model: a change of nothing changes no bit.
        plain = Steering(reader, {})
        plans: list[tuple[int | None, str, float | None, Steering]] = [(None, AS_IS, None, plain)]
        if not self.keep_error:
            rebuilt = Steering(reader, {}, keep_error=False, positions=self.positions)
            plans = [(None, UNSTEERED, None, plain), (None, AS_IS, None, rebuilt)]
        for feature in features:
            for strength in self.strengths:
                edit = self._edit(strength, maxima[feature])
                steering = Steering(reader, {feature: edit}, keep_error=self.keep_error, positions=self.positions)
                plans.append((feature, f"{strength:g}x", strength, steering))
        common: list[Variant] = []
        own: dict[int, list[Variant]] = {feature: [] for feature in features}
        for feature, name, strength, steering in track(plans, len(plans), "texts", self.show_progress):
            asked = features if feature is None else (feature,)
            variant = Variant(name, tuple(self._samples(reader, ids, steering, asked)), strength)
            (common if feature is None else own[feature]).append(variant)
        groups = tuple(
            Group((feature,), (*(_of(one, column) for one in common), *own[feature]))
            for column, feature in enumerate(features)
        )
        return Doses(self._result(groups, maxima), self.prompts, groups)

    def _edit(self, strength: float, maximum: float) -> FeatureEdit:
        if self.mode == "scale":
            return scale(strength)
        return (clamp if self.mode == "clamp" else add)(strength * maximum)

    def _samples(
        self,
        reader: Reader,
        prompts: Sequence[Int[NDArray, "p"]],
        steering: Steering,
        features: Sequence[int],
    ) -> list[Sample]:
        found = []
        for number, ids in enumerate(prompts):
            # The first prompt's texts are those of a command that is asked of it alone.
            seed = self.sampling.seed if not number else derive_seed(self.sampling.seed, "prompt", number)
            made = generate(reader, ids, steering, replace(self.sampling, seed=seed), self.samples)
            found += read_again(reader, ids, made, features, number)
        return found

    def words_of(self, feature: int) -> tuple[str, ...]:
        """Return the words of a feature's concept."""
        words = self.concept.get(feature, ()) if isinstance(self.concept, Mapping) else self.concept
        return tuple(words)

    def _result(self, groups: Sequence[Group], maxima: Mapping[int, float]) -> Result:
        n = len(self.prompts) * self.samples
        weights = bootstrap_weights(n, self.draws, derive_seed(self.sampling.seed, "studies", self.name)).numpy()
        prompts = dict(enumerate(self.prompts))
        every: dict[str, Estimate] = {}
        kept: dict[str, NDArray[np.float64]] = {}
        rows: list[tuple[Cell, ...]] = []
        changes: list[tuple[Cell, ...]] = []
        for group in groups:
            feature = group.features[0]
            words = self.words_of(feature)
            base: tuple[dict[str, Estimate], dict[str, NDArray]] | None = None
            for variant in group.variants:
                each = sums(variant.samples, 0, maxima[feature], words, prompts)
                found, draws = estimates(each, weights, bool(words))
                names = {name: f"{name}/{feature}/{variant.name}" for name in found}
                every |= {names[name]: estimate for name, estimate in found.items()}
                kept |= {names[name]: values for name, values in draws.items()}
                figures = [found[name].value if name in found else None for name in FIGURES]
                rows.append((feature, variant.name, variant.strength, n, int(each.tokens.sum()), *figures))
                if variant.name == AS_IS:
                    base = found, draws
                elif base is not None:
                    changes += _changes(feature, variant, (found, draws), base, n)
        columns = ("feature", "variant", "strength", "samples", "tokens", *(_short(name) for name in FIGURES))
        tables = {
            "doses": Table(columns, tuple(rows), f"Text under each strength ({self.mode})"),
            "changes": Table(_CHANGES, tuple(changes), f"Change against {AS_IS}, sample by sample"),
        }
        return Result(every, tables, tuple(self._notes(n)), kept)

    def _notes(self, n: int) -> list[str]:
        notes = [f"{n} samples of at most {self.sampling.max_tokens} tokens a strength, {len(self.prompts)} prompts"]
        if self.sampling.temperature == 0:
            notes.append("temperature 0: one sample a prompt, whatever samples= says")
        if n < FEWEST:
            notes.append(f"{n} samples: intervals need at least {FEWEST}")
        return notes


_CHANGES = ("feature", "variant", "strength", "figure", "change", "low", "high", "samples")


def _changes(
    feature: int,
    variant: Variant,
    found: tuple[dict[str, Estimate], dict[str, NDArray]],
    base: tuple[dict[str, Estimate], dict[str, NDArray]],
    n: int,
) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for name in CHANGES:
        if name not in found[0]:
            continue
        value, before = found[0][name].value, base[0][name].value
        if value is None or before is None:
            rows.append((feature, variant.name, variant.strength, _short(name), None, None, None, n))
            continue
        # Where both are without an interval (no word in any text), their difference has none.
        known = any(one[0][name].low is not None for one in (found, base))
        limits = (interval(value - before, found[1][name] - base[1][name], n) if known else None) or (None, None)
        rows.append((feature, variant.name, variant.strength, _short(name), value - before, *limits, n))
    return rows


def _short(name: str) -> str:
    """Return a figure's name as a table has it, where all are of steering."""
    return name.removeprefix("steered_")


def _of(variant: Variant, column: int) -> Variant:
    """Return a variant with the activations of one of its features alone."""
    samples = tuple(replace(one, values=np.ascontiguousarray(one.values[:, [column]])) for one in variant.samples)
    return replace(variant, samples=samples)

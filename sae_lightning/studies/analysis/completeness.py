"""Of a list of concepts, which have a feature of their own?"""

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from annotated_types import Ge, Le, MinLen
from jaxtyping import Float, Int
from numpy.typing import NDArray

from sae_lightning.core import Estimate, UserError
from sae_lightning.store import FeatureStore
from sae_lightning.studies.analysis.last_tokens import LastTokens, Place, last_tokens
from sae_lightning.studies.study import Cell, Result, Study, Table
from sae_lightning.studies.subject import Subject
from sae_lightning.tokens import sound

CONCEPT = "{concept}"
COLUMNS = ("concept", "token", "feature", "activation", "templates", "others", "density", "named", "own")
COVERED = ("concept", "token", "covered", "feature", "activation", "others", "density", "named")
# Tokens of an example's context, on either side.
_AROUND = 10
# Strongest tokens that are looked at for one example: a text has many, and one is taken of each.
_LOOKED_AT = 16
# Normal quantile of a 95 % interval.
_Z = 1.959963984540054


class Firing(NamedTuple):
    """How features fire on one concept's last tokens, strongest first, of equal ones the lower first; [m] each.

    mean: activation, mean over templates (0 where off). templates: in how many of them. others: on how many other
    concepts, in any template.
    """

    features: Int[NDArray, "m"]
    mean: Float[NDArray, "m"]
    templates: Int[NDArray, "m"]
    others: Int[NDArray, "m"]


class CompletenessStudy(Study):
    """``covered``: of the concepts listed in a file, the share that have a feature of their own.

    Every concept is put into every template, and the features on its own last token (not the template's) are taken. A
    concept *has a feature* where some feature

    1. fires on that token in every template,
    2. fires on the last token of at most a share ``shared`` of the other concepts, in whichever template, and
    3. goes with the concept in the corpus: of its up to ``examples`` strongest examples in the store, one a text, at
       least a share ``named`` have the concept's name in their context (10 tokens before and after, upper and lower
       case alike) as whole words: no letter or digit stands directly before it or after it. A feature with fewer than
       ``fewest`` examples can't be the concept's. 16 tokens are looked at for each example, no more.

    - ``covered``: all three, not defined without a store. ``covered_prompts``: the first two, which a feature of the
      token that ends a name easily fulfils. Intervals are Wilson's, and estimates count concepts.
    - Table ``covered``: of each concept, the strongest feature of its own. Table ``concepts``: of each concept the
      ``top`` features by activation (mean over templates), and its own one; in how many templates each fires, on how
      many other concepts, its share of kept tokens in the store (``density``), the share ``named`` of rule 3, and
      whether it is the concept's own.

    A token that the mask leaves out has no features.

    concepts: a text file, one concept a line (empty lines are left out, repeated ones count once).
    templates: texts with ``{concept}`` in them. What stands before it changes what the model makes of it; what follows
        does not, for the model reads from left to right. Templates are read behind the token that stands between the
        corpus' texts (``last_tokens``): masks leave out the first position, and ``{concept}`` alone would be there.

    Source: Templeton et al. 2024, "Scaling Monosemanticity", feature completeness (London boroughs, top five features
    on the last token of a prompt, read by people); the criterion is ours.

    Raises UserError: no such file, an empty one, a concept without tokens, a template without ``{concept}``, no
    language model.
    """

    name: ClassVar[str] = "completeness"
    reads_store: ClassVar[bool] = True

    def __init__(
        self,
        concepts: str | None = None,
        templates: Annotated[Sequence[str], MinLen(1)] = (CONCEPT, "They talked about {concept}"),
        top: Annotated[int, Ge(1)] = 5,
        shared: Annotated[float, Ge(0), Le(1)] = 0.1,
        named: Annotated[float, Ge(0), Le(1)] = 0.5,
        examples: Annotated[int, Ge(1)] = 20,
        fewest: Annotated[int, Ge(1)] = 3,
        show_progress: bool = True,
    ) -> None:
        for template in templates:
            if template.count(CONCEPT) != 1:
                raise UserError(
                    f"studies.completeness.templates: {template!r} must have {CONCEPT} once; write it "
                    "where the concept goes"
                )
        if fewest > examples:
            raise UserError(
                f"studies.completeness.fewest={fewest}: is more than examples={examples}, so that no concept could "
                "have a feature; raise examples"
            )
        self.templates = tuple(dict.fromkeys(sound(template) for template in templates))
        self.top, self.shared, self.named, self.examples = top, shared, named, examples
        self.fewest, self.show_progress = fewest, show_progress
        # A file that isn't there is said before anything is loaded.
        self.concepts, self._notes = ([], []) if concepts is None else read_concepts(concepts)

    def reason(self, subject: Subject) -> str | None:
        if not self.concepts:
            return "needs concepts; set studies.completeness.concepts to a file with one a line"
        if subject.lm is None or subject.harvester is None:
            return "needs a language model to read concepts with; choose an lm, not lm=none"
        return None

    def run(self, subject: Subject) -> Result:
        if reason := self.reason(subject):
            raise UserError(f"{self.name}: {reason}")
        parts = [template.partition(CONCEPT) for template in self.templates]
        places = [Place(a + c + b, len(a), len(a + c)) for c in self.concepts for a, _, b in parts]
        read = last_tokens(subject, places, self.show_progress)
        most = math.floor(self.shared * (len(self.concepts) - 1) + 1e-9)
        rows: list[tuple[Cell, ...]] = []
        covered: list[tuple[Cell, ...]] = []
        by_prompts = 0
        for number, firing in enumerate(self._firing(read, subject.sae.d_sae)):
            concept, piece = self.concepts[number], read.pieces[number * len(parts)]
            own = np.flatnonzero((firing.templates == len(parts)) & (firing.others <= most)).tolist()
            by_prompts += bool(own)
            its = next((i for i in own if self._goes_with(subject.store, int(firing.features[i]), concept)), None)
            shown = list(range(min(self.top, len(firing.features)))) + ([] if its is None else [its])
            for i in dict.fromkeys(shown):
                f, v, templates, others = (part[i].item() for part in firing)
                seen = self._density(subject.store, f), self._named(subject.store, f, concept)
                rows.append((concept, piece, f, v, templates, others, *seen, i == its))
                if i == its:
                    covered.append((concept, piece, True, f, v, others, *seen))
            if its is None:
                covered.append((concept, piece, False, *[None] * 5))
        n, k = len(covered), sum(row[2] is True for row in covered)
        notes = [*self._notes]
        if masked := int((~read.kept).sum()):
            notes.append(f"the mask leaves out {masked} of {len(places)} last tokens: they have no features")
        if subject.store is None:
            notes.append("no store: what features go with in the corpus is not known, and covered not defined")
        found = Estimate(None, None, None, n) if subject.store is None else Estimate(k / n, *wilson(k, n), n)
        said = f"fires in every template and on at most {most} other concepts"
        if subject.store is not None:
            said += (
                f", and {self.named:g} of its up to {self.examples} strongest examples, one a text, name the concept; "
                f"it has at least {self.fewest} of them"
            )
        tables = {
            "covered": Table(COVERED, tuple(covered), f"Each concept's strongest feature of its own: {said}"),
            "concepts": Table(
                COLUMNS, tuple(rows), f"Strongest features on each concept's last token, {len(parts)} templates"
            ),
        }
        prompts = Estimate(by_prompts / n, *wilson(by_prompts, n), n)
        return Result({"covered": found, "covered_prompts": prompts}, tables, tuple(notes))

    def _goes_with(self, store: FeatureStore | None, feature: int, concept: str) -> bool:
        if store is None:
            return True
        share = self._named(store, feature, concept)
        return share is not None and share >= self.named and len(self._examples(store, feature)) >= self.fewest

    def _named(self, store: FeatureStore | None, feature: int, concept: str) -> float | None:
        """Return the share of the feature's strongest examples that name the concept; None where there are none."""
        if store is None:
            return None
        there = [names(store, token, concept) for token in self._examples(store, feature)]
        return sum(there) / len(there) if there else None

    def _examples(self, store: FeatureStore, feature: int) -> list[int]:
        """Return the strongest token of each text among those looked at, strongest first."""
        tokens = store.top_tokens(feature, _LOOKED_AT * self.examples).tokens
        first = np.unique(store.text_index[tokens], return_index=True)[1]
        return tokens[np.sort(first)[: self.examples]].tolist()

    @staticmethod
    def _density(store: FeatureStore | None, feature: int) -> float | None:
        return None if store is None else int(store.stats.count[feature]) / max(1, store.n_kept)

    def _firing(self, read: LastTokens, d_sae: int) -> list[Firing]:
        """Return how features fire on each concept."""
        n_concepts, n_templates = len(self.concepts), len(self.templates)
        pairs, place, templates = np.unique(
            (read.texts // n_templates) * d_sae + read.features, return_inverse=True, return_counts=True
        )
        mean = np.bincount(place, weights=read.values, minlength=len(pairs)) / n_templates
        features = pairs % d_sae
        others = np.bincount(features, minlength=d_sae)[features] - 1
        edges = np.searchsorted(pairs, np.arange(n_concepts + 1) * d_sae)
        out = []
        for first, last in pairwise(edges.tolist()):
            order = first + np.lexsort((features[first:last], -mean[first:last]))
            out.append(Firing(features[order], mean[order], templates[order], others[order]))
        return out


def names(store: FeatureStore, token: int, concept: str) -> bool:
    """Whether the context of a token has the concept's name in it as whole words, upper and lower case alike."""
    context = store.context(token, _AROUND, _AROUND)
    # A word that the context's edge cuts off goes on beyond it.
    wide = store.context(token, 2 * _AROUND, 2 * _AROUND)
    before = wide.before[: len(wide.before) - len(context.before)][-1:].casefold()
    after = wide.after[len(context.after) :][:1].casefold()
    inside = (context.before + context.token + context.after).casefold()
    name = re.compile(rf"(?<![^\W_]){re.escape(concept.casefold())}(?![^\W_])")
    found = name.search(before + inside + after, len(before))
    return found is not None and found.end() <= len(before + inside)


def read_concepts(path: str) -> tuple[list[str], list[str]]:
    """Return (concepts, notes) of a text file, one a line. Raises UserError where there is nothing to read."""
    setting = f"studies.completeness.concepts={path}"
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{setting}: there is no such file; give a text file with one concept a line") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{setting}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{setting}: cannot be read ({error.strerror}); give a text file") from None
    lines = [line.strip() for line in sound(text).splitlines()]
    found = [line for line in lines if line]
    concepts = list(dict.fromkeys(found))
    if not concepts:
        raise UserError(f"{setting}: is empty; give a text file with one concept a line")
    if len(concepts) < 2:
        raise UserError(f"{setting}: has one concept; give at least two: what is special to it shows beside others")
    repeated = len(found) - len(concepts)
    return concepts, [f"{repeated} lines repeat a concept and count once"] if repeated else []


def wilson(k: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of k in n (Wilson 1927): it holds for few, for none and for all."""
    p, z2 = k / n, _Z * _Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return (0.0 if k == 0 else middle - half), (1.0 if k == n else middle + half)

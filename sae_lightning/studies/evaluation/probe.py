"""What do features say about labelled texts?"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt, MinLen
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import PositiveInt

from sae_lightning.core import UserError
from sae_lightning.metrics import bootstrap_weights, interval
from sae_lightning.studies.evaluation.labelled_texts import LabelledTexts, choose_texts
from sae_lightning.studies.evaluation.probing import ClassTask, Probes, Scores, balanced_mean, class_tasks
from sae_lightning.studies.evaluation.text_vectors import Pool, read_texts
from sae_lightning.studies.progress import track
from sae_lightning.studies.study import Cell, Estimate, Result, Study, Table
from sae_lightning.studies.subject import Subject
from sae_lightning.studies.windows import DRAWS
from sae_lightning.tokens import LabelledFile, TextSource, labelled_task

COLUMNS = (
    "class",
    "probe",
    "k",
    "features",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "loss",
    "loss_low",
    "loss_high",
)
_METRICS = {"1d": "probe", "sparse": "sparse_probe", "random": "random_probe", "dense": "dense_probe"}


class ProbeStudy(Study):
    """``probe_loss/TASK probe_accuracy/TASK`` and the like: probes fitted on some labelled texts, scored on others.

    A text's vector is the mean (or maximum) of each feature over the tokens that the SAE's mask keeps. Each class
    against the rest, either side with half of the weight: chance is ln 2 nats and an accuracy of 0.5. Figures are means
    over the classes (in two classes there is but one such task).

    - ``probe_*``: the best single feature with a line of its own, ``logit = w f + b``, fitted for every feature and
      chosen on the training texts, scored on the test texts (Gao et al. 2024, section 4.2, who read pre-activations and
      have no test texts).
    - ``sparse_probe_*/kK``: logistic regression of the k features whose means differ most between the sides (Gurnee et
      al. 2023, "Finding neurons in a haystack"; Karvonen et al. 2025, SAEBench).
    - ``random_probe_*/kK``: the floor, k random features (mean of ten sets) of those active on the training texts.
    - ``dense_probe_*``: the ceiling, an L2-regularised logistic regression of the mean activation that the SAE reads,
      its penalty chosen on a quarter of the training texts.

    Intervals: a bootstrap over test texts; a note says why where there are none. Estimates count the tokens of the test
    texts.

    tasks: of ``rotten_tomatoes`` (fresh, rotten, plot) and ``news_source`` (nine publishers).
    path: a user's own texts instead: csv, jsonl or parquet with columns ``text`` and ``label``.
    k: numbers of features for sparse probing. pool: ``mean`` or ``max``. max_tokens: of a text.
    max_texts (of a task), min_per_class, test_fraction, seed: see ``choose_texts``. draws: of the bootstrap.

    Raises UserError without a language model, and what reading and choosing the texts raises.
    """

    name: ClassVar[str] = "probe"

    def __init__(
        self,
        tasks: Sequence[Literal["rotten_tomatoes", "news_source"]] = ("rotten_tomatoes", "news_source"),
        path: str | None = None,
        text: str = "text",
        label: str = "label",
        k: Annotated[Sequence[PositiveInt], MinLen(1)] = (1, 2, 5),
        pool: Pool = "mean",
        max_tokens: Annotated[int, Ge(2)] = 64,
        max_texts: Annotated[int, Ge(40)] = 900,
        min_per_class: Annotated[int, Ge(10)] = 40,
        test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.3,
        seed: int = 0,
        draws: Annotated[int, Ge(100)] = DRAWS,
        show_progress: bool = True,
    ) -> None:
        if path is None and not tasks:
            raise UserError("studies.probe.tasks=[]: name a task, or give texts with studies.probe.path")
        self.tasks, self.path, self.text, self.label = tuple(tasks), path, text, label
        self.k, self.max_tokens = tuple(k), max_tokens
        self.pool: Pool = pool
        self.max_texts, self.min_per_class, self.test_fraction = max_texts, min_per_class, test_fraction
        self.seed, self.draws, self.show_progress = seed, draws, show_progress
        # A file that isn't there is said before anything is loaded.
        self._own = self._own_texts(path) if path is not None else None
        self._chosen: dict[str, LabelledTexts] = {}

    def reason(self, subject: Subject) -> str | None:
        if subject.lm is None or subject.harvester is None:
            return "needs a language model to read labelled texts with; choose an lm, not lm=none"
        return None

    def run(self, subject: Subject) -> Result:
        if reason := self.reason(subject):
            raise UserError(f"probe: {reason}")
        estimates: dict[str, Estimate] = {}
        tables: dict[str, Table] = {}
        notes: list[str] = []
        draws: dict[str, NDArray[np.float64]] = {}
        for name, source in self._sources().items():
            # Chosen once, however many SAEs are asked about.
            if name not in self._chosen:
                self._chosen[name] = self._choose(source)
            found = self._task(subject, name, self._chosen[name])
            estimates |= found.estimates
            tables |= found.tables
            notes += found.notes
            draws |= found.draws
        return Result(estimates, tables, tuple(notes), draws)

    def _sources(self) -> dict[str, TextSource]:
        if self._own is not None:
            return {"own": self._own}
        return {task: labelled_task(task) for task in self.tasks}

    def _own_texts(self, path: str) -> LabelledFile:
        settings = ("studies.probe.path", "studies.probe.text", "studies.probe.label")
        return LabelledFile(path, text=self.text, label=self.label, settings=settings)

    def _choose(self, source: TextSource) -> LabelledTexts:
        return choose_texts(
            source,
            max_texts=self.max_texts,
            min_per_class=self.min_per_class,
            test_fraction=self.test_fraction,
            seed=self.seed,
        )

    def _task(self, subject: Subject, name: str, chosen: LabelledTexts) -> Result:
        vectors = read_texts(
            subject, chosen.texts, max_tokens=self.max_tokens, pool=self.pool, show_progress=self.show_progress
        )
        probes = Probes(vectors.features, vectors.acts, chosen.test, self.k, self.seed)
        tasks = class_tasks(chosen.labels, len(chosen.classes), chosen.test)
        scores: dict[int, list[Scores]] = {}
        for number in track(tasks, len(tasks), f"probes of {name}", self.show_progress):
            scores[number] = list(probes.scores(tasks[number]))
        summary = _Summary(name, chosen, int(vectors.tokens[chosen.test].sum()), self.draws, self.seed)
        dead = (
            () if len(probes.alive) else (f"{name}: no feature fires on the training texts: only the dense probe is",)
        )
        n_test = int(chosen.test.sum())
        note = (
            f"{name}: {len(chosen.texts) - n_test:,} training and {n_test:,} test texts of at most "
            f"{self.max_tokens} tokens, {len(chosen.classes)} classes ({', '.join(chosen.classes)})"
        )
        return summary.result(tasks, scores, (note, *chosen.notes, *dead))


class _Summary:
    """Figures, intervals and the table of one task."""

    def __init__(self, name: str, chosen: LabelledTexts, tokens: int, draws: int, seed: int) -> None:
        self.name, self.classes, self.tokens = name, chosen.classes, tokens
        self.n = int(chosen.test.sum())
        self.weights = bootstrap_weights(self.n, draws, seed).numpy()

    def result(self, tasks: dict[int, ClassTask], scores: dict[int, list[Scores]], notes: tuple[str, ...]) -> Result:
        rows: list[tuple[Cell, ...]] = []
        values: dict[str, list[tuple[float, NDArray[np.float64]]]] = {}
        for number, found in scores.items():
            for one in found:
                accuracy, loss = (self._both(v, tasks[number].y_test) for v in (one.right, one.loss))
                which = ", ".join(map(str, one.features))
                cells = (self.classes[number], one.kind, one.k, which)
                rows.append((*cells, *self._limits(*accuracy), *self._limits(*loss)))
                for metric, value in (("accuracy", accuracy), ("loss", loss)):
                    values.setdefault(self._name(one, metric), []).append(value)
        estimates, draws = {}, {}
        for name, parts in values.items():
            value = float(np.mean([part[0] for part in parts]))
            draws[name] = np.mean([part[1] for part in parts], axis=0)
            estimates[name] = Estimate(*self._limits(value, draws[name]), self.tokens)
        notes += self._without_interval(estimates, draws)
        caption = f"Probes of {self.name} on {self.n:,} test texts: each class against the rest, chance 0.5 and 0.693"
        return Result(estimates, {self.name: Table(COLUMNS, tuple(rows), caption)}, notes, draws)

    def _without_interval(self, estimates: dict[str, Estimate], draws: dict[str, NDArray]) -> tuple[str, ...]:
        missing = [name for name, estimate in estimates.items() if estimate.low is None]
        if not missing:
            return ()
        undefined = 1 - np.isfinite(draws[missing[0]]).mean()
        return (
            f"{self.name}: {len(missing)} figures have no interval: {undefined:.0%} of the resamples of {self.n:,} "
            f"test texts miss one of {len(self.classes)} classes (at most 10% may); raise studies.probe.max_texts or "
            "studies.probe.test_fraction, or give more texts of the rarest class",
        )

    def _both(self, values: NDArray, y: NDArray) -> tuple[float, Float[NDArray, "B"]]:
        value = float(balanced_mean(values, y, np.ones((1, self.n)))[0])
        return value, balanced_mean(values, y, self.weights)

    def _limits(self, value: float, draws: NDArray) -> tuple[float, float | None, float | None]:
        low, high = interval(value, draws, self.n) or (None, None)
        return value, low, high

    def _name(self, one: Scores, metric: str) -> str:
        k = f"/k{one.k}" if one.kind in ("sparse", "random") else ""
        return f"{_METRICS[one.kind]}_{metric}/{self.name}{k}"

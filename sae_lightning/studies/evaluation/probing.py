"""Probes of one labelled task: fitted on its training texts, scored text by text on its test texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from sae_lightning.core import derive_seed
from sae_lightning.studies.evaluation.logistic import OneFeature, cross_entropy, fit_logistic

if TYPE_CHECKING:
    from scipy.sparse import csc_array

# Of a probe of one or a few features: only there to keep weights finite where they separate the classes.
_L2 = 1e-4
# What the penalty of the dense probe is chosen from, by the texts of a quarter of the training set.
_DENSE_L2 = (1e-3, 1e-2, 1e-1, 1.0)
_RANDOM_SETS = 10


@dataclass(frozen=True)
class Scores:
    """A probe on the test texts. loss: cross-entropy in nats. right: 1 where the likelier side is the true one.

    kind: ``1d``, ``sparse``, ``random`` or ``dense``. k: number of features, None of the dense probe. features: which.
    """

    kind: str
    k: int | None
    loss: Float[NDArray, "n"]
    right: Float[NDArray, "n"]
    features: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClassTask:
    """One class against the rest. y: 1 where a text is of the class. a_train: weights of the training texts, sum 1.

    Either side has half of the weight, so chance is ln 2 nats and an accuracy of 0.5 whatever the number of classes.
    """

    y_train: Float[NDArray, "n"]
    y_test: Float[NDArray, "m"]

    @property
    def a_train(self) -> Float[NDArray, "n"]:
        return balanced(self.y_train)


def balanced(y: Float[NDArray, "n"]) -> Float[NDArray, "n"]:
    """Return weights that give the ones and the zeros half each."""
    return np.where(y == 1, 0.5 / max(1.0, y.sum()), 0.5 / max(1.0, (1 - y).sum()))


class Probes:
    """The probes of one task's classes, on features [n, F] and mean activations [n, d] of its texts."""

    def __init__(
        self,
        features: "csc_array",
        acts: Float[NDArray, "n d"],
        test: Bool[NDArray, "n"],
        ks: Sequence[int],
        seed: int,
    ) -> None:
        train = features[~test]
        # Features that say nothing on the training texts can't be chosen.
        self.alive: NDArray[np.int64] = np.flatnonzero(np.diff(train.indptr))
        self.train = train[:, self.alive]
        self.test = features[test][:, self.alive]
        self.acts_train, self.acts_test = acts[~test], acts[test]
        self.ks = [min(k, len(self.alive)) for k in ks if len(self.alive)]
        self.seed = seed

    def scores(self, task: ClassTask) -> Iterator[Scores]:
        """Yield the scores of every probe of one class against the rest."""
        if len(self.alive):
            yield self._one(task)
            difference = task.y_train / task.y_train.sum() - (1 - task.y_train) / (1 - task.y_train).sum()
            ranked = np.argsort(-np.abs(self.train.T @ difference), kind="stable")
            for k in dict.fromkeys(self.ks):
                yield self._few(task, "sparse", k, [ranked[:k]])
                yield self._few(task, "random", k, self._random(k))
        yield self._dense(task)

    def _one(self, task: ClassTask) -> Scores:
        """Gao's probe: the single feature whose line fits the training texts best."""
        fit = OneFeature(self.train, task.y_train, task.a_train, _L2).fit()
        best = int(np.argmin(fit.objective))
        logits = self.test[:, [best]].toarray()[:, 0] * fit.w[best] + fit.b[best]
        return _scored("1d", 1, logits, task.y_test, (int(self.alive[best]),))

    def _few(self, task: ClassTask, kind: str, k: int, sets: Sequence[NDArray]) -> Scores:
        """Probes of the features of each set, their scores averaged."""
        found = []
        for chosen in sets:
            w, b = fit_logistic(self.train[:, chosen].toarray(), task.y_train, task.a_train, _L2)
            found.append(_scored(kind, k, self.test[:, chosen].toarray() @ w + b, task.y_test))
        features = tuple(int(i) for i in self.alive[sets[0]]) if len(sets) == 1 else ()
        loss, right = (np.mean([getattr(one, name) for one in found], axis=0) for name in ("loss", "right"))
        return Scores(kind, k, loss, right, features)

    def _random(self, k: int) -> list[NDArray]:
        rng = np.random.default_rng(derive_seed(self.seed, "studies", "probe", "random", k))
        return [rng.choice(len(self.alive), k, replace=False) for _ in range(_RANDOM_SETS)]

    def _dense(self, task: ClassTask) -> Scores:
        # The texts come in the order of their hashes: every fourth is as good as a random quarter.
        held = np.arange(len(task.y_train)) % 4 == 0
        x, y = self.acts_train, task.y_train
        losses = []
        for l2 in _DENSE_L2:
            w, b = fit_logistic(x[~held], y[~held], balanced(y[~held]), l2)
            losses.append(float(balanced(y[held]) @ cross_entropy(x[held] @ w + b, y[held])))
        w, b = fit_logistic(x, y, task.a_train, _DENSE_L2[int(np.argmin(losses))])
        return _scored("dense", None, self.acts_test @ w + b, task.y_test)


def _scored(
    kind: str, k: int | None, logits: Float[NDArray, "n"], y: Float[NDArray, "n"], features: tuple[int, ...] = ()
) -> Scores:
    # A logit of 0 is a guess.
    right = np.where(logits == 0, 0.5, (logits > 0) == (y == 1)).astype(np.float64)
    return Scores(kind, k, cross_entropy(logits, y), right, features)


def class_tasks(labels: Int[NDArray, "n"], n_classes: int, test: Bool[NDArray, "n"]) -> dict[int, ClassTask]:
    """Return each class against the rest; of two classes the second alone, since the other is its mirror image."""
    tasks = {}
    for number in range(n_classes) if n_classes > 2 else [1]:
        y = (labels == number).astype(np.float64)
        tasks[number] = ClassTask(y[~test], y[test])
    return tasks


def balanced_mean(
    values: Float[NDArray, "n"], y: Float[NDArray, "n"], weights: Float[NDArray, "B n"]
) -> Float[NDArray, "B"]:
    """Return the mean of the two sides' means, under each set of weights; NaN where a side has none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        sides = [(weights @ (values * side)) / (weights @ side) for side in (y, 1 - y)]
    return (sides[0] + sides[1]) / 2

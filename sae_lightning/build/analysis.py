"""From config to an analysis: which studies are asked of which stores, what they answer, and the report of it."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_lightning.build.device import pick_device
from sae_lightning.build.evaluation import build_studies, check_studies, evaluate, short_names
from sae_lightning.build.instantiate import target_of
from sae_lightning.build.stored import Stored, open_stored
from sae_lightning.config import AnalyzeConfig, EvaluateConfig, validate
from sae_lightning.core import UserError
from sae_lightning.studies import ComparativeStudy, Result, Study
from sae_lightning.studies.evaluation.matching import nearest, unit_rows

logger = logging.getLogger(__name__)

FORMAT, VERSION = "sae_lightning.analysis", 1


@dataclass(frozen=True)
class Analysis:
    """What was found. results: by store and study; comparisons: by study; evaluation: as evaluation.json has it.

    closest: by two stores' names, of each feature of the first the one of the second that fires at all and has the
    nearest decoder direction, and their cosine.
    """

    stored: Mapping[str, Stored]
    results: Mapping[str, Mapping[str, Result]]
    comparisons: Mapping[str, Result]
    evaluation: dict[str, Any] | None
    closest: Mapping[tuple[str, str], tuple[NDArray[np.int32], NDArray[np.float32]]]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return everything as analysis.json has it: estimates, tables and the numbers of every feature."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "stores": {
                name: {
                    "facts": _public(one.store.facts),
                    "tokens": one.store.n_tokens,
                    "kept_tokens": one.store.n_kept,
                    "activations": one.store.nnz,
                    "studies": {study: _with_arrays(result) for study, result in self.results[name].items()},
                }
                for name, one in self.stored.items()
            },
            "comparisons": {name: _with_arrays(result) for name, result in self.comparisons.items()},
            "evaluation": self.evaluation,
            "seconds": round(self.seconds, 3),
        }


def analyze(config: AnalyzeConfig, asked: frozenset[str] = frozenset()) -> Analysis:
    """Ask the chosen studies of every store.

    asked: studies that the user named: one that can't be asked is then an error, else it is left out. Raises UserError,
    before anything slow, for stores and SAEs that do not fit together.
    """
    started = time.perf_counter()
    check_studies(config)
    studies = build_studies(config)
    device, paths = pick_device(config.device), config.stores
    names = short_names(paths, "store")
    saes = config.of_each(config.sae, "sae")
    stored = {
        name: open_stored(path, sae, verify=config.verify, show=config.progress, device=device)
        for name, path, sae in zip(names, paths, saes, strict=True)
    }
    subjects = {name: one.subject for name, one in stored.items()}
    of_stores = {name: study for name, study in studies.items() if study.reads_store}
    for name, study in of_stores.items():
        if name in asked:
            _refuse(name, study, subjects)
    # First, since its text may be gone; what it needs is looked at before it begins.
    evaluation = _evaluation(config, stored, asked & frozenset(studies) - frozenset(of_stores))
    results: dict[str, dict[str, Result]] = {name: {} for name in stored}
    for study in of_stores.values():
        if isinstance(study, Study):
            for name, subject in subjects.items():
                if (reason := study.reason(subject)) is None:
                    with _timed(study.name, name):
                        results[name][study.name] = study.run(subject)
                else:
                    logger.info("%s of %s: left out: %s", study.name, name, reason)
    comparisons = {}
    for study in of_stores.values():
        if isinstance(study, ComparativeStudy):
            if (reason := study.reason_all(subjects)) is None:
                with _timed(study.name, " and ".join(stored)):
                    comparisons[study.name] = study.run_all(subjects, results)
            elif len(subjects) > 1:
                logger.info("%s: left out: %s", study.name, reason)
    closest = {}
    for a in stored:
        for b in stored:
            if a != b and _written(stored[a]) == _written(stored[b]):
                closest[a, b] = _closest(stored[a], stored[b])
    return Analysis(stored, results, comparisons, evaluation, closest, time.perf_counter() - started)


def _written(one: Stored) -> tuple[Any, ...]:
    """Return what an SAE writes: decoder rows are compared within one language model and site alone."""
    facts = one.store.facts
    return facts["lm"].get("sha256"), tuple(facts["sites"]["write"]), one.subject.sae.d_out


def _closest(a: Stored, b: Stored) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return, of each feature of a, the one of b that fires at all and has the nearest direction, and the cosine."""
    live = torch.from_numpy(np.flatnonzero(b.store.stats.count))
    if not len(live):
        return np.full(a.store.d_sae, -1, np.int32), np.zeros(a.store.d_sae, np.float32)
    cosine, index = nearest(unit_rows(a.subject.sae.W_dec), unit_rows(b.subject.sae.W_dec)[live])
    return live[index].numpy().astype(np.int32), cosine.numpy().astype(np.float32)


def _refuse(name: str, study: Study | ComparativeStudy, subjects: Mapping[str, Any]) -> None:
    if isinstance(study, ComparativeStudy):
        reasons = {"": study.reason_all(subjects)}
    else:
        reasons = {store: study.reason(subject) for store, subject in subjects.items()}
    for store, reason in reasons.items():
        if reason is not None:
            raise UserError(f"studies={name}{f' of {store}' if store else ''}: {reason}")


@contextmanager
def _timed(study: str, name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    logger.info("%s of %s: %.1f s", study, name, time.perf_counter() - started)


def _evaluation(config: AnalyzeConfig, stored: Mapping[str, Stored], asked: frozenset[str]) -> dict[str, Any] | None:
    """Return held-out figures by the chosen studies of that kind, as evaluation.json has them; None without any."""
    nodes = {name: node for name, node in config.studies.items() if node and not _of_store(node, name)}
    if not nodes or not config.evaluation_tokens:
        return None
    given = {json.dumps(one.store.facts["given"], sort_keys=True) for one in stored.values()}
    if len(given) > 1:
        logger.info("evaluation: left out: the stores were read with different lm=, data= or sites=; ask one at a time")
        return None
    settings = {
        **json.loads(given.pop()),
        "sae": [str(one.sae_path) for one in stored.values()],
        "tokens": config.evaluation_tokens,
        "studies": nodes,
        "draws": config.draws,
        "seed": config.seed,
        "device": config.device,
        "progress": config.progress,
    }
    try:
        return evaluate(validate(settings, EvaluateConfig), asked, list(stored))
    except UserError as error:
        if asked:
            raise
        logger.warning("evaluation: left out: %s", error)
        return None


def _of_store(node: dict[str, Any], name: str) -> bool:
    return target_of(node, f"studies.{name}").reads_store


def _with_arrays(result: Result) -> dict[str, Any]:
    return {**result.to_json(), "arrays": {name: _listed(values) for name, values in result.arrays.items()}}


def _listed(values: NDArray) -> Any:
    """Return an array as lists for JSON: seven digits of floats, null for NaN."""
    if values.dtype.kind != "f":
        return values.tolist()
    if values.ndim > 1:
        return [_listed(row) for row in values]
    return [float(f"{v:.7g}") if np.isfinite(v) else None for v in values.tolist()]


def _public(facts: dict[str, Any]) -> dict[str, Any]:
    """Return a store's facts without paths of this machine."""
    lm = {key: value for key, value in facts["lm"].items() if key != "load"}
    sae = {key: value for key, value in facts["sae"].items() if key != "path"}
    return {key: value for key, value in {**facts, "lm": lm, "sae": sae}.items() if key not in ("settings", "given")}


def evaluation_of(found: Analysis, name: str) -> dict[str, Any] | None:
    """Return the evaluation with one store's SAE alone."""
    if found.evaluation is None:
        return None
    return {**found.evaluation, "saes": {name: found.evaluation["saes"][name]}, "comparisons": {}}


def token_text(stored: Stored) -> Callable[[int], str]:
    """Return a function from a token's id to its text, as the language model's tokenizer writes it."""
    lm = stored.subject.lm
    assert lm is not None

    @lru_cache(maxsize=1 << 17)
    def text(token: int) -> str:
        return str(lm.tokenizer.decode([token]))

    return text

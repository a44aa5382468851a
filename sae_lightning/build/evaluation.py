"""From config to an evaluation: which studies are asked of which SAEs, and what they answer."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lightning.build.instantiate import check_node, make, target_of
from sae_lightning.build.subject import Evaluated, build_subject
from sae_lightning.config import AnalyzeConfig, EvaluateConfig
from sae_lightning.core import UserError
from sae_lightning.studies import ComparativeStudy, Result, Study, Subject, WindowStudy, measure_all

logger = logging.getLogger(__name__)

FORMAT, VERSION = "sae_lightning.evaluation", 1


def check_studies(config: EvaluateConfig | AnalyzeConfig) -> None:
    """Check every study's settings against its class, before anything slow is loaded. Raises UserError."""
    chosen = {name: node for name, node in config.studies.items() if node}
    if not chosen:
        raise UserError("studies=[]: none is chosen; give at least one, for example studies=[reconstruction]")
    for name, node in chosen.items():
        target = target_of(node, f"studies.{name}")
        if not (isinstance(target, type) and issubclass(target, Study | ComparativeStudy)):
            raise UserError(f"studies.{name}._target_={node['_target_']}: must be a study; name a class of that kind")
        check_node(node, f"studies.{name}", {"show_progress"})


def build_studies(config: EvaluateConfig | AnalyzeConfig) -> dict[str, Study | ComparativeStudy]:
    """Build the chosen studies, by name."""
    return {
        name: make(node, f"studies.{name}", show_progress=config.progress)
        for name, node in config.studies.items()
        if node
    }


def window_studies(config: EvaluateConfig, subject: Subject) -> list[WindowStudy]:
    """Return the chosen studies that one pass of a subject's windows feeds and that can be asked of it."""
    studies = build_studies(config).values()
    return [s for s in studies if isinstance(s, WindowStudy) and s.reason(subject) is None]


def evaluate(
    config: EvaluateConfig, asked: frozenset[str] = frozenset(), names: list[str] | None = None
) -> dict[str, Any]:
    """Ask the chosen studies of every SAE and return the evaluation as evaluation.json has it.

    asked: studies that the user named: one that can't be asked of an SAE is then an error, else it is left out.
    names: what to call the SAEs; None: the last parts of their paths.
    Raises UserError, before anything is measured, for SAEs and data that do not fit together.
    """
    started = time.perf_counter()
    studies = build_studies(config)
    names = short_names(config.paths) if names is None else names
    built = {name: build_subject(config, path) for name, path in zip(names, config.paths, strict=True)}
    subjects = {name: one.subject for name, one in built.items()}
    _refuse(studies, subjects, asked)
    results = {
        name: _of_one(config, path, built[name], studies) for name, path in zip(names, config.paths, strict=True)
    }
    comparisons: dict[str, Result] = {}
    for study in studies.values():
        if isinstance(study, ComparativeStudy):
            if (reason := study.reason_all(subjects)) is None:
                comparisons[study.name] = study.run_all(subjects, results)
            elif len(subjects) > 1:
                logger.info("%s: left out: %s", study.name, reason)
    saes = {
        name: {**built[name].facts, "studies": {study: result.to_json() for study, result in found.items()}}
        for name, found in results.items()
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": config.seed,
        "draws": config.draws,
        "saes": saes,
        "comparisons": {name: result.to_json() for name, result in comparisons.items()},
        "seconds": round(time.perf_counter() - started, 3),
    }


def short_names(paths: list[str], key: str = "sae") -> list[str]:
    """Return short names that tell SAEs, or stores, apart: the last parts of their paths, as many as that takes."""
    parts = [[p for p in Path(path).expanduser().resolve().parts if p not in ("export", "/")] for path in paths]
    if len({tuple(p) for p in parts}) < len(parts):
        raise UserError(f"{key}={paths}: the same one is given twice; give each once")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(p) for p in parts]


def _refuse(
    studies: Mapping[str, Study | ComparativeStudy], subjects: Mapping[str, Subject], asked: frozenset[str]
) -> None:
    left = 0
    for name, study in studies.items():
        if isinstance(study, ComparativeStudy):
            reasons = {"": study.reason_all(subjects)}
        else:
            reasons = {sae: study.reason(subject) for sae, subject in subjects.items()}
        for sae, reason in reasons.items():
            left += reason is None
            if reason is not None and name in asked:
                raise UserError(f"studies={name}{f' of {sae}' if sae else ''}: {reason}")
    if not left:
        raise UserError(f"studies={list(studies)}: none of them can be asked of these SAEs; choose others")


def _of_one(
    config: EvaluateConfig, path: str, one: Evaluated, studies: Mapping[str, Study | ComparativeStudy]
) -> dict[str, Result]:
    subject = one.subject
    able = [s for s in studies.values() if isinstance(s, Study) and s.reason(subject) is None]
    shared = [study for study in able if isinstance(study, WindowStudy)]
    found: dict[str, Result] = {}
    if shared:
        crew = None
        if config.processes > 1:
            from sae_lightning.build.crew import Processes

            crew = Processes(config.processes, config, path)
        try:
            found = measure_all(
                subject, shared, draws=config.draws, seed=config.seed, crew=crew, show_progress=config.progress
            )
        finally:
            if crew is not None:
                crew.close()
    for study in able:
        if not isinstance(study, WindowStudy):
            found[study.name] = study.run(subject)
    return {study.name: found[study.name] for study in able}

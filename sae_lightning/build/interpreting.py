"""From config to an interpretation: who explains and scores which units, and what comes out as JSON."""

import inspect
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sae_lightning.build.asking import Asked, open_asked
from sae_lightning.build.instantiate import check_node, make, target_of
from sae_lightning.build.units import choose_units
from sae_lightning.config import InterpretConfig, Node
from sae_lightning.core import UserError
from sae_lightning.core.files import check_writable
from sae_lightning.studies.autointerp.clients.client import Client
from sae_lightning.studies.autointerp.clients.kept import FILE, keeping
from sae_lightning.studies.autointerp.explainers.unit_reads import unit_reads
from sae_lightning.studies.autointerp.explanations import Explanation, Explanations
from sae_lightning.studies.autointerp.interpretation import Interpretation, Interpreted, interpret
from sae_lightning.studies.autointerp.parts import Explainer, Scorer, Scores
from sae_lightning.studies.autointerp.prompts import PROMPT_VERSION
from sae_lightning.studies.autointerp.recording import Recipe, StretchRecorder
from sae_lightning.studies.autointerp.records import Stretch
from sae_lightning.studies.progress import track

logger = logging.getLogger(__name__)

FORMAT, VERSION = "sae_lightning.interpretation", 1
#: Arguments of explainers, scorers and clients that only the program knows.
GIVEN = {"client", "reads", "pool", "observe", "show_progress"}
# Stretches of a unit that its page shows.
_EXAMPLES = 3


@dataclass(frozen=True)
class Said:
    """What came of an interpretation. json: as interpretation.json has it. trials: each question with its answer."""

    json: dict[str, Any]
    explanations: Explanations
    trials: list[dict[str, Any]]


def check_parts(config: InterpretConfig, asked: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Check explainer, scorers and client against their classes, building nothing; return the scorers to build.

    asked: scorers that the user named: one that needs a client is an error without one, else it is left out.
    """
    check_node(config.explainer, "explainer", GIVEN)
    if config.client is not None:
        check_node(config.client, "client", {"show_progress"})
    elif _needs_client(config.explainer, "explainer"):
        raise UserError("client=none: this explainer asks a language model; set client=local or client=openai")
    names = []
    for name, node in config.scorer.items():
        if not node:
            continue
        check_node(node, f"scorer.{name}", GIVEN)
        if config.client is None and _needs_client(node, f"scorer.{name}"):
            if name in asked:
                raise UserError(f"client=none: scorer {name} asks a language model; set client=local or client=openai")
            logger.info("scorer %s: left out: it asks a language model, and client=none", name)
            continue
        names.append(name)
    return tuple(names)


def run(config: InterpretConfig, out: Path, scorers: Sequence[str]) -> Said:
    """Interpret; answers are kept in ``out`` as they come. Raises UserError for what the user must mend."""
    started = time.perf_counter()
    # What can be wrong with a client shows before anything slow.
    raw = None if config.client is None else make(config.client, "client", show_progress=config.progress)
    asked = open_asked(config)
    assert asked.store is not None
    chosen = choose_units(config, asked)
    recorder = StretchRecorder(
        asked.store, chosen.n_tokens, chosen, Recipe(**config.record.model_dump(), seed=config.seed)
    )
    records = list(track(recorder.records(chosen.units), len(chosen.units), "recording", config.progress))
    with _kept(raw, out) as client:
        given = _given(config, asked, recorder, client)
        explainer: Explainer = make(config.explainer, "explainer", **given)
        nodes = {name: config.scorer[name] or {} for name in scorers}
        judges: list[Scorer] = [make(node, f"scorer.{name}", **given) for name, node in nodes.items()]
        found = interpret(records, explainer, judges, seed=config.seed, draws=config.draws)
        usage = None if client is None else client.usage
        if client is not None:
            logger.info("%s: %s", client.name, usage)
    said = {
        "format": FORMAT,
        "version": VERSION,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "sae": {"name": asked.name, "sha256": asked.sae_sha256},
        "lm": asked.lm.get("name"),
        "store": asked.store.path.resolve().name,
        "tokens": chosen.n_tokens,
        "explainer": explainer.name,
        "client": None if client is None else client.name,
        "prompt_version": PROMPT_VERSION,
        "usage": None if usage is None else usage.as_json(),
        "seed": config.seed,
        "draws": config.draws,
        "record": config.record.model_dump(),
        "result": found.result.to_json(),
        "units": [_unit(unit) | _details(explainer, unit) for unit in found.units],
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Said(said, _explanations(asked, found), _trials(found))


def _needs_client(node: Node, where: str) -> bool:
    parameter = inspect.signature(target_of(node, where)).parameters.get("client")
    return parameter is not None and parameter.default is parameter.empty


@contextmanager
def _kept(client: Any, out: Path) -> Iterator[Client | None]:
    """Yield the client with its answers kept in ``out``; a folder made for nothing is taken away again."""
    if client is None:
        check_writable(out)
        yield None
        return
    existed = out.exists()
    try:
        with keeping(client, out) as kept:
            yield kept
    except UserError:
        if not existed and (out / FILE).exists() and not (out / FILE).stat().st_size:
            (out / FILE).unlink()
            if not any(out.iterdir()):
                out.rmdir()
        raise


def _given(config: InterpretConfig, asked: Asked, recorder: StretchRecorder, client: Client | None) -> dict[str, Any]:
    """Return what explainers and scorers may take that no yaml says."""
    pool = np.unique(np.asarray(recorder.store.token_ids[: recorder.n_tokens], np.int64))
    given: dict[str, Any] = {
        "reads": lambda unit: unit_reads(asked.reader, unit, config.neurons),
        "pool": np.setdiff1d(pool, np.asarray(asked.reader.lm.special_ids, np.int64)),
        "observe": lambda record: recorder.scored(record.unit),  # whole texts, of which nothing is shown
        "show_progress": config.progress,
    }
    return given if client is None else given | {"client": client}


def _unit(one: Interpreted) -> dict[str, Any]:
    record = one.record
    return {
        "unit": str(one.unit),
        **asdict(one.unit),
        "largest": record.largest,
        "density": record.density,
        "floor": record.floor,
        "explanation": None if one.explanation is None else asdict(one.explanation),
        "scores": {name: _scores(scores) for name, scores in one.scores.items()},
        "shuffled_from": None if one.stranger is None else str(one.stranger),
        "shuffled": {name: _scores(scores) for name, scores in one.shuffled.items()},
        "examples": [_stretch(stretch) for stretch in record.shown[:_EXAMPLES]],
    }


def _details(explainer: Explainer, one: Interpreted) -> dict[str, Any]:
    """Return what an explainer has to say beside its words: n2g's patterns, as they are read by a program."""
    details = getattr(explainer, "details", None)
    return {} if details is None else {"details": details(one.unit)}


def _stretch(stretch: Stretch) -> dict[str, Any]:
    return {
        "pieces": list(stretch.pieces),
        "values": [round(float(value), 4) for value in stretch.values],
        "level": stretch.level,
        "text": stretch.text,
    }


def _scores(scores: Scores | None) -> dict[str, Any] | None:
    if scores is None:
        return None
    values = {name: float(value) if np.isfinite(value) else None for name, value in scores.values.items()}
    return {"values": values, "asked": len(scores.trials), "usable": scores.usable}


def _explanations(asked: Asked, found: Interpretation) -> Explanations:
    """Return the features' explanations with their own scores, those that there are."""
    features: dict[int, tuple[Explanation, ...]] = {}
    for one in found.units:
        if one.unit.kind == "feature" and one.explanation is not None:
            scores = dict(one.explanation.scores)
            for name, mine in one.scores.items():
                values = {} if mine is None else mine.values
                scores |= {f"{name}_{key}": float(value) for key, value in values.items() if np.isfinite(value)}
            features[one.unit.index] = (Explanation(one.explanation.text, one.explanation.by, scores),)
    return Explanations(asked.sae_sha256, features)


def _trials(found: Interpretation) -> list[dict[str, Any]]:
    """Return every question with its answer, those that could not be used among them."""
    return [
        {"unit": str(one.unit), "scorer": name, "shuffled": shuffled, **asdict(trial)}
        for one in found.units
        for shuffled, scored in ((False, one.scores), (True, one.shuffled))
        for name, scores in scored.items()
        if scores is not None
        for trial in scores.trials
    ]

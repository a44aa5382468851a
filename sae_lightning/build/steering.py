"""From config to steered texts: which edits on which SAE, what was written with them and without."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from sae_lightning.build.asking import Asked, open_asked
from sae_lightning.build.prompt_files import read_prompts_file
from sae_lightning.config import SteerConfig
from sae_lightning.config.steer import EDITS
from sae_lightning.core import UserError, derive_seed
from sae_lightning.studies.autointerp.explanations import Explanations
from sae_lightning.studies.progress import track
from sae_lightning.studies.steering.dose_response import NEUTRAL, DoseResponse
from sae_lightning.studies.steering.edits import FeatureEdit, add, clamp, resolve, scale
from sae_lightning.studies.steering.generate import check_prompt, generate
from sae_lightning.studies.steering.samples import Group, Sample, Variant, read_again
from sae_lightning.studies.steering.sampling import Sampling
from sae_lightning.studies.steering.steering import Steering

FORMAT, VERSION = "sae_lightning.steering", 1
_MAKE = {"clamp": clamp, "add": add, "scale": scale}


def steer(config: SteerConfig) -> dict[str, Any]:
    """Go on with the prompts, steered and not, and return what steering.json holds.

    Raises UserError, before anything slow where it can, for what does not fit together.
    """
    started = time.perf_counter()
    prompts = _prompts(config)
    edits = edits_of(config)
    sampling = Sampling(config.max_tokens, config.temperature, config.top_p, config.seed, config.cached)
    asked = open_asked(config)
    explanations = None
    if config.explanations is not None:
        explanations = Explanations.load(config.explanations, asked.sae_sha256, asked.reader.sae.d_sae)
    features = [asked.check_feature(feature) for feature in config.features or edits]
    maxima = {} if asked.store is None else {f: float(asked.store.stats.largest[f]) for f in features}
    if config.dose is None:
        groups: Sequence[Group] = [_side_by_side(config, asked, prompts, edits, sampling)]
        dose, notes = None, []
    else:
        study = DoseResponse(
            strengths=config.dose,
            mode=config.mode,
            prompts=prompts,
            samples=config.n,
            concept=config.concept or (),
            keep_error=config.keep_error,
            positions=config.positions,
            sampling=sampling,
            draws=config.draws,
            show_progress=config.progress,
        )
        found = study.run(asked.reader, maxima)
        groups, dose, notes = found.groups, found.result.to_json(), []
    return {
        "format": FORMAT,
        "version": VERSION,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(time.perf_counter() - started, 3),
        "sae": {"name": asked.name, "sha256": asked.sae_sha256},
        "lm": asked.lm,
        "sites": {"read": list(asked.reader.sites.read), "write": list(asked.reader.sites.write)},
        "store": None if asked.store is None else asked.store.path.resolve().name,
        "settings": _settings(config, sampling),
        "features": [_of(feature, edits, maxima, explanations) for feature in features],
        "prompts": list(prompts),
        "groups": [group.to_json() for group in groups],
        "dose": dose,
        "notes": notes,
    }


def edits_of(config: SteerConfig) -> dict[int, FeatureEdit]:
    """Return the edits of a config, by feature. Raises UserError for a strength that is none."""
    out = {}
    for name in EDITS:
        for feature, strength in (getattr(config, name) or {}).items():
            try:
                out[feature] = _MAKE[name](strength)
            except UserError as error:
                raise UserError(f"feature {feature}, {error}") from None
    return out


def _prompts(config: SteerConfig) -> tuple[str, ...]:
    if config.prompt_file is not None:
        return tuple(read_prompts_file(config.prompt_file, "prompt_file"))
    return NEUTRAL if config.prompt is None else tuple(config.prompt)


def _side_by_side(
    config: SteerConfig,
    asked: Asked,
    prompts: Sequence[str],
    edits: Mapping[int, FeatureEdit],
    sampling: Sampling,
) -> Group:
    """Return every prompt gone on with without steering, on the reconstruction if that is asked for, and steered."""
    reader, positions = asked.reader, config.positions
    for feature in edits:
        asked.check_feature(feature)
    resolved = resolve(edits, asked.store)
    # Without edits and yet the same way through the language model: steering that changes nothing changes no bit.
    plans = {"unsteered": Steering(reader, {})}
    if config.reconstruct:
        plans["reconstruction"] = Steering(reader, {}, keep_error=False, positions=positions)
    if edits:
        plans["steered"] = Steering(reader, resolved, keep_error=config.keep_error, positions=positions)
    ids = [reader.cut(prompt)[1] for prompt in prompts]
    for one in ids:
        check_prompt(reader, one, sampling, list(plans.values())[-1])
    made: dict[str, list[Sample]] = {name: [] for name in plans}
    todo = [(number, name) for number in range(len(ids)) for name in plans]
    for number, name in track(todo, len(todo), "texts", config.progress):
        # The first prompt's texts are the same whatever prompts follow.
        seed = sampling.seed if not number else derive_seed(sampling.seed, "prompt", number)
        texts = generate(reader, ids[number], plans[name], replace(sampling, seed=seed), config.n)
        made[name] += read_again(reader, ids[number], texts, list(edits), number)
    return Group(tuple(edits), tuple(Variant(name, tuple(samples)) for name, samples in made.items()))


def _settings(config: SteerConfig, sampling: Sampling) -> dict[str, Any]:
    said = asdict(sampling) | {"n": config.n, "keep_error": config.keep_error, "positions": config.positions}
    if config.dose is not None:
        said |= {"dose": config.dose, "mode": config.mode}
        if config.concept:
            said["concept"] = config.concept
    return said


def _of(
    feature: int,
    edits: Mapping[int, FeatureEdit],
    maxima: Mapping[int, float],
    explanations: Explanations | None,
) -> dict[str, Any]:
    edit, largest = edits.get(feature), maxima.get(feature)
    said = "" if edit is None else str(edit)
    if edit is not None and largest is not None and edit.resolved(largest) != edit:
        said += f" ({edit.resolved(largest).value:.4g})"
    explanation = None if explanations is None else explanations.of(feature)
    return {
        "feature": feature,
        "maximum": largest,
        "edit": said,
        "explanation": None if explanation is None else explanation.text,
    }

"""From config to a search: what is asked of which SAE, what was found, and what the features found are."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_lightning.build.asking import Asked, open_asked
from sae_lightning.build.device import pick_device
from sae_lightning.build.evaluation import short_names
from sae_lightning.build.names import sae_name
from sae_lightning.build.prompt_files import read_prompts_file
from sae_lightning.config import SearchConfig
from sae_lightning.config.search import WAYS
from sae_lightning.core import UserError
from sae_lightning.lm.sites import member_of
from sae_lightning.sae import SparseAutoencoder, formats
from sae_lightning.store import FeatureStore, sae_sha256
from sae_lightning.studies import Result, Study, Subject
from sae_lightning.studies.autointerp.explanations import Explanations
from sae_lightning.studies.search.attribution import AttributionSearch
from sae_lightning.studies.search.combination import CombinationSearch
from sae_lightning.studies.search.explained import ExplainedSearch
from sae_lightning.studies.search.geometric import GeometricSearch, read_vector
from sae_lightning.studies.search.influence import InfluenceSearch
from sae_lightning.studies.search.prompt import PromptSearch

FORMAT, VERSION = "sae_lightning.search", 1
# Different tokens among so many strongest examples say what a feature fires on.
_EXAMPLES, _TOKENS = 20, 5


def search(config: SearchConfig) -> dict[str, Any]:
    """Look for features and return what was found as search.json has it.

    Raises UserError, before anything slow where it can, for what does not fit together.
    """
    started = time.perf_counter()
    positive, negative = _prompts(config, "all"), _prompts(config, "none")
    near = read_vector(config.near) if isinstance(config.near, str) else config.near
    report = None if config.report is None else _report(config.report)
    asked, subject = _open(config)
    said = None
    if config.explanations is not None:
        said = Explanations.load(config.explanations, asked.sae_sha256, subject.sae.d_sae)
    study: Study
    n, show = config.n, config.progress
    match config.way:
        case "prompt":
            study = PromptSearch(str(config.prompt), config.token, n, show)
        case "all":
            study = CombinationSearch(positive, negative, config.threshold, n, show)
        case "near":
            assert near is not None
            study = GeometricSearch(near, _others(config, asked), asked.name, n)
        case "attribute":
            study = AttributionSearch(
                str(config.attribute),
                str(config.target),
                config.against,
                n,
                config.keep_error,
                config.float32,
                config.space,
                config.seed,
                show,
            )
        case "influence":
            study = InfluenceSearch(
                str(config.influence),
                str(config.want),
                config.strength,
                config.candidates,
                n,
                config.float32,
                config.space,
                config.seed,
                show,
            )
        case _:
            assert said is not None
            study = ExplainedSearch(str(config.concept), said, n)
    if "background_tokens" in WAYS[config.way] and subject.store is None:
        assert asked.corpus is not None
        subject = replace(asked.corpus(config.background_tokens), reader=subject.reader)
    result = study.run(subject)
    return {
        "format": FORMAT,
        "version": VERSION,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "way": config.way,
        "asked": _settings(config),
        "sae": {"name": asked.name, "sha256": asked.sae_sha256},
        "store": None if subject.store is None else subject.store.path.resolve().name,
        **_labelled(result, asked.name, subject.store, said, report).to_json(),
        "report": report,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _prompts(config: SearchConfig, name: str) -> list[str]:
    path = getattr(config, f"{name}_file")
    given = getattr(config, name) or []
    return list(dict.fromkeys(given)) if path is None else read_prompts_file(path, f"{name}_file")


class _Opened:
    """What of an SAE is known that is asked nothing of a text."""

    corpus = None

    def __init__(self, config: SearchConfig, path: str) -> None:
        self.sae: SparseAutoencoder = formats.read(path).to(pick_device(config.device)).eval()
        self.name = sae_name(path)
        self.sae_sha256 = sae_sha256(self.sae)


def _open(config: SearchConfig) -> tuple[Asked | _Opened, Subject]:
    """Return the SAE opened, and what is asked of: directions and explanations need no language model."""
    if config.way in ("near", "concept") and config.store is None:
        assert config.sae is not None
        opened = _Opened(config, config.sae)
        return opened, Subject(opened.sae)
    asked = open_asked(config)
    if config.way in ("attribute", "influence") and member_of(asked.reader.sites.write[0])[0] is not None:
        raise UserError(f"{config.way}=...: this SAE writes two language models, and a prompt runs in one; use prompt=")
    return asked, Subject(asked.reader.sae, asked.reader.lm, store=asked.store, reader=asked.reader)


def _others(config: SearchConfig, asked: Asked | _Opened) -> dict[str, SparseAutoencoder]:
    """Return the other SAEs, by name. Raises UserError for one that writes elsewhere."""
    if config.to is None:
        return {}
    sae = asked.sae if isinstance(asked, _Opened) else asked.reader.sae
    where = _written(sae)
    if isinstance(asked, Asked):
        where = (asked.lm.get("sha256"), asked.reader.sites.write)
    names = [name if name != asked.name else f"{name} (2)" for name in short_names(config.to, "to")]
    out = {}
    for name, path in zip(names, config.to, strict=True):
        other = formats.read(path).to(sae.W_dec.device).eval()
        for mine, its, what in zip(where, _written(other), ("language model", "site"), strict=True):
            if mine and its and mine != its:
                raise UserError(f"to={path}: writes another {what} than {asked.name}; give SAEs of the same site")
        out[name] = other
    return out


def _written(sae: SparseAutoencoder) -> tuple[Any, Any]:
    """Return (hash of the language model, sites written) as far as an SAE says them."""
    said = sae.metadata
    return (said.get("lm") or {}).get("sha256"), tuple((said.get("sites") or {}).get("write") or ())


def _report(path: str) -> str:
    """Return the address of a report's page of a feature, without the feature. Raises UserError for no report."""
    page = Path(path).expanduser().resolve() / "feature.html"
    if not page.is_file():
        remedy = "give the folder that analyze wrote"
        if any(page.parent.glob("*/feature.html")):
            remedy = "it has several SAEs; give the folder of one in it"
        raise UserError(f"report={path}: holds no pages of features; {remedy}")
    return page.as_uri()


def _settings(config: SearchConfig) -> dict[str, Any]:
    """Return the settings that this search has read, with prompts as they are, wherever they came from."""
    names = [config.way, *WAYS[config.way], "n"]
    values = {name: getattr(config, name) for name in names}
    if config.store is not None:
        values.pop("background_tokens", None)
    if config.way == "all":
        values |= {"all": _prompts(config, "all"), "none": _prompts(config, "none") or None}
    return {name: value for name, value in values.items() if value is not None and not name.endswith("_file")}


def _labelled(
    result: Result, own: str, store: FeatureStore | None, said: Explanations | None, report: str | None
) -> Result:
    """Return the result with what each feature fires on, what it is said to mean, and its page in the report."""
    table = result.tables["features"]
    at = table.columns.index("feature")
    ours = [row[0] == own if "sae" in table.columns else True for row in table.rows]
    more: dict[str, Mapping[int, str | None]] = {}
    features = {int(row[at]) for row, mine in zip(table.rows, ours, strict=True) if mine}  # type: ignore[arg-type] - numbers
    if store is not None:
        more["fires_on"] = {feature: fires_on(store, feature) for feature in features}
    if said is not None:
        more["explanation"] = {feature: one.text if (one := said.of(feature)) else None for feature in features}
    if report is not None:
        more["page"] = {feature: f"{report}?f={feature}" for feature in features}
    rows = tuple(
        (*row, *(of.get(int(row[at])) if mine else None for of in more.values()))  # type: ignore[arg-type] - as above
        for row, mine in zip(table.rows, ours, strict=True)
    )
    return replace(result, tables={"features": replace(table, columns=(*table.columns, *more), rows=rows)})


def fires_on(store: FeatureStore, feature: int) -> str:
    """Return the different tokens among a feature's strongest examples, strongest first, each quoted."""
    hits = store.top_tokens(feature, _EXAMPLES)
    pieces: Iterable[str] = (store.pieces(token, token + 1)[0].strip() for token in hits.tokens.tolist())
    return ", ".join([repr(piece) for piece in dict.fromkeys(pieces) if piece][:_TOKENS])

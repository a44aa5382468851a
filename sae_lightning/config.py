"""Config models: types, ranges and cross-field rules, each broken rule one line that names value, rule and remedy.

Hydra composes the yaml files and refuses unknown keys; this file says what the values may be. Nodes with a
``_target_`` (the SAE, a loss, a callback) are checked against the type annotations of the constructor they name, so
that a new architecture or loss brings its own rules and this file stays as it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from sae_lightning.core.errors import UserError
from sae_lightning.core.files import atomic_path
from sae_lightning.validation import one_line, whole

#: A bank's command line, beside its config: its lanes, and those added later, are composed from it.
OVERRIDES_FILE = "overrides.json"


Count = Annotated[int, BeforeValidator(whole), Ge(1)]
CountOrZero = Annotated[int, BeforeValidator(whole), Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]
Node = dict[str, Any]


class Section(BaseModel):
    """A part of the config: unknown keys and silently converted types are refused."""

    model_config = ConfigDict(extra="forbid", strict=False, coerce_numbers_to_str=False, allow_inf_nan=False)


class LMConfig(Section):
    """The frozen language model; ``name`` is smollm2, tiny, a hub name or a local folder."""

    name: str
    revision: str | None = None
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    options: Node = {}


class SitesConfig(Section):
    """Where the model is read. ``read`` (hook names) wins over ``kind`` and ``layer``."""

    kind: Literal["resid", "mlp_out", "attn_out"] = "resid"
    layer: CountOrZero = 9
    read: list[str] | None = None


class DataConfig(Section):
    """Texts, token windows, and the buffer they are shuffled in."""

    kind: Literal["text", "tokens", "activations", "synthetic"]
    source: Node | None = None
    synthetic: Node | None = None
    path: str | None = None
    field: str | None = None
    txt_unit: str | None = None
    split: str | None = None
    heldout: str | None = None
    dtype: Literal["uint16", "uint32"] | None = None
    separator: CountOrZero | None = None
    max_documents: Count | None = None
    max_tokens: Count | Literal["auto"] | None = None
    context_length: Annotated[int, BeforeValidator(whole), Ge(2)] = 128
    packing: Literal["packed", "document"] = "packed"
    prepend_bos: bool = False
    heldout_fraction: Annotated[float, Gt(0), Le(0.5)] = 0.05
    batch_size: Count = 2048
    buffer_tokens: Count = 65536
    mix: Annotated[float, Ge(0), Le(0.95)] = 0.5
    micro_batch: Count = 32
    mask_first_position: bool = True
    mask_norm_multiple: Positive | None = 10.0
    seed: Annotated[int, BeforeValidator(whole), Ge(0), Le(2**32 - 1)] | None = None
    share: Annotated[float, Gt(0), Le(1)] = 1.0
    cache: Literal["auto", "off", "only"] = "auto"
    cache_dir: Annotated[str, MinLen(1)] | None = None
    cache_max_gb: Positive = 20.0
    cache_shard_mb: Positive = 128.0


class NormaliseConfig(Section):
    """How raw activations are scaled before the SAE; folded into the weights at export."""

    mode: Literal["none", "sqrt_d", "rms", "layer_norm", "centre"] = "sqrt_d"
    centre: bool | Literal["auto"] = "auto"
    sample_tokens: Count = 16384


class OptimizerConfig(Section):
    """Adam. ``lr: auto`` is ``base_lr / sqrt(d_sae / 2^14)``, raised for short runs: see training.optim."""

    lr: Positive | Literal["auto"] = "auto"
    base_lr: Positive = 2e-4
    short_run_boost: bool = True
    scale_with_d_sae: bool = True
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.999)
    eps: Positive = 1e-8
    clip: Annotated[float, Gt(0)] | None = 1.0


class SchedulerConfig(Section):
    """Learning rate over training, in shares of all steps: linear warm-up, constant, linear decay to ``final``."""

    warmup: Share = 0.05
    decay: Share = 0.2
    final: Share = 0.0


class TrainerConfig(Section):
    """What goes to Lightning's Trainer."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: Count = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    max_steps: Count | None = None
    profiler: Literal["simple", "advanced"] | None = None
    overfit_batch: bool = False


class EvaluationConfig(Section):
    """Held-out evaluation: how often during training, and on how many tokens."""

    every_n_steps: CountOrZero = 50
    tokens: Count = 8192
    final_tokens: Count = 32768
    downstream_tokens: CountOrZero = 8192


class PathsConfig(Section):
    """Where things are written. ``run_dir`` null means outputs/runs/DATE_TIME_name."""

    run_dir: Annotated[str, MinLen(1)] | None = None
    outputs: Annotated[str, MinLen(1)] = "outputs"


class RunConfig(Section):
    """One training run, after composition: what config.yaml in the run folder holds."""

    name: Annotated[str, MinLen(1)] | None = None
    tokens: Count
    seed: Annotated[int, BeforeValidator(whole), Ge(0), Le(2**32 - 1)] = 0
    bank: list[Node] | None = None
    add_to: str | None = None
    resume: str | None = None
    trial: Node | None = None
    progress: bool = True
    sae: Node
    init: Node = {}
    losses: dict[str, Node | None]
    normalise: NormaliseConfig = NormaliseConfig()
    lm: LMConfig | None = None
    sites: SitesConfig = SitesConfig()
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    trainer: TrainerConfig = TrainerConfig()
    callbacks: dict[str, Node | None] = {}
    logger: dict[str, Node | None] = {}
    evaluation: EvaluationConfig = EvaluationConfig()
    paths: PathsConfig = PathsConfig()

    @model_validator(mode="after")
    def _rules(self) -> "RunConfig":
        d_sae, k = self.sae.get("d_sae"), self.sae.get("k")
        if isinstance(d_sae, int) and isinstance(k, int) and k > d_sae:
            raise ValueError(f"sae.k={k}: must be at most sae.d_sae={d_sae}; lower sae.k or raise sae.d_sae")
        reads_text = self.data.kind in ("text", "tokens")
        if self.data.kind == "activations" and self.lm is not None:
            raise ValueError("data=activations: stored activations need no language model; add lm=none")
        if self.data.kind == "synthetic" and self.lm is not None:
            raise ValueError("data.kind=synthetic: made-up activations need no language model; leave lm= out")
        if self.data.kind == "synthetic" and self.data.synthetic is None:
            raise ValueError("data.synthetic: is needed; use data=synthetic or data=toy_superposition")
        if reads_text and self.lm is None:
            raise ValueError(
                "lm=none: there is nothing to turn text into activations; use data=activations or choose lm="
            )
        if self.data.kind in ("tokens", "activations") and not self.data.path:
            raise ValueError("data.path: is needed; set data.path=... to a file")
        if self.trainer.devices != 1:
            raise ValueError(
                f"trainer.devices={self.trainer.devices}: a run is one process on one device; set trainer.devices=1"
            )
        if reads_text and self.data.batch_size > self.data.buffer_tokens * (1 - self.data.mix):
            raise ValueError(
                f"data.buffer_tokens={self.data.buffer_tokens}: the part that is handed out between refills, "
                f"{int(self.data.buffer_tokens * (1 - self.data.mix))} rows, must hold at least one batch of "
                f"data.batch_size={self.data.batch_size}; raise data.buffer_tokens or lower data.batch_size"
            )
        if self.tokens < self.data.batch_size:
            raise ValueError(
                f"tokens={self.tokens}: must be at least one batch of data.batch_size={self.data.batch_size}; "
                "raise tokens or lower data.batch_size"
            )
        if self.scheduler.warmup + self.scheduler.decay > 1:
            raise ValueError(
                f"scheduler.warmup={self.scheduler.warmup} + scheduler.decay={self.scheduler.decay}: shares of "
                "training, together at most 1; lower one of them"
            )
        return self

    @property
    def stream_seed(self) -> int:
        """The seed of the order of text and rows: ``data.seed``, or the run's."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def total_steps(self) -> int:
        """Optimiser steps: whole batches within the token budget, fewer when trainer.max_steps says so."""
        steps = self.tokens // self.data.batch_size
        return min(steps, self.trainer.max_steps or steps)


class TokenizeConfig(Section):
    """What python -m sae_lightning.tokenize does: text of ``data`` through the tokenizer of ``lm`` into ``out``."""

    out: str
    workers: Count | None = None
    separator: CountOrZero | None = None
    lm: LMConfig | None = None
    data: DataConfig


Config = TypeVar("Config", bound=Section)


class SitesOfSAE(Section):
    """Hook names that an SAE reads and writes, where it does not say; ``write`` null: the same."""

    read: Annotated[list[str], MinLen(1)] | None = None
    write: Annotated[list[str], MinLen(1)] | None = None


class EvaluateConfig(Section):
    """What python -m sae_lightning.evaluate measures: SAEs, on held-out data, by studies.

    lm, data and sites default to what each SAE says of its origin.
    """

    sae: Annotated[str, MinLen(1)] | Annotated[list[Annotated[str, MinLen(1)]], MinLen(1)]
    out: Annotated[str, MinLen(1)] | None = None
    lm: LMConfig | None = None
    data: DataConfig | None = None
    sites: SitesOfSAE = SitesOfSAE()
    tokens: Count = 32768
    any_lm: bool = False
    seed: Annotated[int, BeforeValidator(whole), Ge(0), Le(2**32 - 1)] = 0
    draws: Annotated[int, BeforeValidator(whole), Ge(100)] = 1000
    processes: Annotated[int, BeforeValidator(whole), Ge(1), Le(256)] = 1
    device: str = "auto"
    progress: bool = True
    studies: dict[str, Node | None]

    @property
    def paths(self) -> list[str]:
        """The SAEs' paths."""
        return [self.sae] if isinstance(self.sae, str) else self.sae

    @model_validator(mode="after")
    def _rules(self) -> "EvaluateConfig":
        if self.data is not None and self.data.kind in ("activations", "synthetic") and self.lm is not None:
            raise ValueError(f"lm={self.lm.name}: data of kind {self.data.kind} need no language model; leave lm out")
        if self.data is not None and self.data.kind in ("tokens", "activations") and not self.data.path:
            raise ValueError("data.path: is needed; set data.path=... to a file")
        return self


def validate(raw: Mapping[str, Any], model: type[Config] = RunConfig) -> Config:  # pyright: ignore[reportArgumentType]
    """Check a composed config; raise UserError with every broken rule in one line."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise UserError(one_line(error)) from None


def load_config(run_dir: Path) -> RunConfig:
    """Read and validate the config of an existing run."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise UserError(f"resume={run_dir}: is no run folder (it has no config.yaml); give the folder of a run")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is no readable YAML ({error}); restore it or start the run anew") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings; restore it or start the run anew")
    return validate(values)


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return the config with the paths that exist made absolute: a run may be resumed from any folder."""

    def absolute(value: str | None) -> str | None:
        return str(Path(value).expanduser().resolve()) if value and Path(value).expanduser().exists() else value

    data = config.data.model_copy(
        update={
            "path": absolute(config.data.path),
            "heldout": absolute(config.data.heldout),
            "cache_dir": config.data.cache_dir and str(Path(config.data.cache_dir).expanduser().resolve()),
            "source": config.data.source
            and {k: absolute(v) if k in ("path", "name") else v for k, v in config.data.source.items()},
        }
    )
    lm = config.lm and config.lm.model_copy(update={"name": absolute(config.lm.name)})
    known = ("smollm2", "tiny")
    return config.model_copy(update={"data": data, "lm": config.lm if config.lm and config.lm.name in known else lm})


def config_text(config: RunConfig) -> str:
    """Return the resolved config as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def save_config(config: RunConfig, run_dir: Path) -> str:
    """Write config.yaml (resolved) and return its text."""
    text = config_text(config)
    with atomic_path(run_dir / "config.yaml") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text

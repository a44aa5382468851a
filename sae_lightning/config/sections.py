"""Parts of a config: types and ranges of the settings of each group."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from sae_lightning.validation import whole

Count = Annotated[int, BeforeValidator(whole), Ge(1)]
CountOrZero = Annotated[int, BeforeValidator(whole), Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]
Node = dict[str, Any]


class Section(BaseModel):
    """A part of the config: unknown keys and silently converted types are refused."""

    model_config = ConfigDict(extra="forbid", strict=False, coerce_numbers_to_str=False, allow_inf_nan=False)


class LMConfig(Section):
    """The frozen language model; ``name`` is smollm2, tiny, a hub name or a local folder.

    device_map: spreads it over several devices in place of ``device``: auto, or a device by module path.
    """

    name: str
    revision: str | None = None
    device: str = "auto"
    device_map: str | Node | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    options: Node = {}


SiteKind = Literal["resid", "mlp_in", "mlp_out", "attn_out"]


class TunedConfig(Section):
    """The second model of ``sites=diff``; what is not said is as ``lm`` says it (of another name, no revision)."""

    name: str | None = None
    revision: str | None = None
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    options: Node = {}

    @property
    def is_another(self) -> bool:
        """Whether anything tells it from the model of ``lm``."""
        return bool(self.name or self.revision or self.options)

    def beside(self, lm: LMConfig) -> LMConfig:
        """Return the whole of its settings."""
        name = self.name or lm.name
        own = {
            "name": name,
            "revision": self.revision or (lm.revision if name == lm.name else None),
            "device": self.device or lm.device,
            "dtype": self.dtype or lm.dtype,
            "options": {**lm.options, **self.options},
        }
        return lm.model_copy(update=own)


class SitesConfig(Section):
    """Where the model is read and written. Hook names (``read``, ``write``) win over ``kind`` and ``layer``.

    layers: several sites side by side, a crosscoder; wins over ``layer``. write_kind: what is written where it is not
    what is read, a transcoder. diff: the same sites of two models, that of ``lm`` and ``tuned``.
    """

    kind: SiteKind = "resid"
    write_kind: SiteKind | None = None
    layer: CountOrZero = 9
    layers: list[CountOrZero] | None = None
    read: list[Annotated[str, MinLen(1)]] | None = None
    write: list[Annotated[str, MinLen(1)]] | None = None
    diff: bool = False
    tuned: TunedConfig = TunedConfig()

    @property
    def numbers(self) -> list[int]:
        """The layers that are read where no hook is named."""
        return [self.layer] if self.layers is None else self.layers

    @property
    def transcodes(self) -> bool:
        """Whether something else is written than is read."""
        if self.read is not None:
            return self.write is not None and self.write != self.read
        return self.write_kind not in (None, self.kind)

    @model_validator(mode="after")
    def _rules(self) -> "SitesConfig":
        lists: dict[str, list[Any] | None] = {"layers": self.layers, "read": self.read, "write": self.write}
        for name, values in lists.items():
            if values is None:
                continue
            if not values:
                raise ValueError(f"sites.{name}=[]: needs at least one; leave it out for one layer (sites.layer)")
            if twice := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
                raise ValueError(f"sites.{name}={values}: names {twice[0]} more than once; give each once")
        if self.write is not None and self.read is None:
            raise ValueError(f"sites.write={self.write}: without sites.read nothing says what is read; give both")
        if self.read is not None and self.write is None and self.write_kind is not None:
            raise ValueError(
                f"sites.read={self.read}: without sites.write nothing says what a transcoder writes; give both"
            )
        if self.diff and not self.tuned.is_another:
            raise ValueError(
                "sites.tuned: is the model of lm= itself; name the second model (sites.tuned.name=...) or another "
                "revision of it (sites.tuned.revision=...)"
            )
        if not self.diff and self.tuned != TunedConfig():
            raise ValueError("sites.tuned: a second model is read with sites=diff alone; add that, or leave it out")
        return self


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
    targets: Annotated[str, MinLen(1)] | None = None
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
    """How a run is computed.

    devices: processes that train it together, each on a device of its own. strategy: ``ddp``: each has its rows of
    every batch; ``model_parallel``: each has its features of the SAE; ``auto`` is ddp.
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: Count = 1
    strategy: Literal["auto", "ddp", "model_parallel"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    encoder: Literal["auto", "float32", "bfloat16"] = "auto"
    pre_acts_mb: Positive = 256.0
    max_steps: Count | None = None
    profiler: Literal["simple", "advanced"] | None = None
    overfit_batch: bool = False

    @property
    def sharded(self) -> bool:
        """Whether each process has only its features of the SAE."""
        return self.devices > 1 and self.strategy == "model_parallel"


class ObjectiveConfig(Section):
    """Weights of the reconstruction and of what is measured through the language model; 0 leaves the latter out."""

    end_to_end: bool = False
    reconstruction: Annotated[float, Ge(0)] = 1.0
    logit_kl: Annotated[float, Ge(0)] = 0.0
    block_mse: Annotated[float, Ge(0)] = 0.0
    block_layers: Annotated[list[CountOrZero], MinLen(1)] | None = None


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

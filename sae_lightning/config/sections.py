"""Parts of a config: types and ranges of the settings of each group."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, BeforeValidator, ConfigDict

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
    encoder: Literal["auto", "float32", "bfloat16"] = "auto"
    pre_acts_mb: Positive = 256.0
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

"""The config of a training run, and the rules across its groups."""

from typing import Annotated

from annotated_types import Ge, Le, MinLen
from pydantic import BeforeValidator, Field, model_validator

from sae_lightning.config.sections import (
    Count,
    DataConfig,
    EvaluationConfig,
    LMConfig,
    Node,
    NormaliseConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PathsConfig,
    SchedulerConfig,
    Section,
    SitesConfig,
    TrainerConfig,
)
from sae_lightning.validation import whole


class RunConfig(Section):
    """One training run, after composition: what config.yaml in the run folder holds."""

    name: Annotated[str, MinLen(1)] | None = None
    tokens: Count
    seed: Annotated[int, BeforeValidator(whole), Ge(0), Le(2**32 - 1)] = 0
    bank: list[Node] | None = None
    add_to: str | None = None
    init_from: Annotated[str, MinLen(1)] | None = None
    resume: str | None = None
    trial: Node | None = None
    progress: bool = True
    sae: Node
    init: Node = Field(default_factory=dict)
    losses: dict[str, Node | None]
    objective: ObjectiveConfig = ObjectiveConfig()
    normalise: NormaliseConfig = NormaliseConfig()
    lm: LMConfig | None = None
    sites: SitesConfig = SitesConfig()
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    trainer: TrainerConfig = TrainerConfig()
    callbacks: dict[str, Node | None] = Field(default_factory=dict)
    logger: dict[str, Node | None] = Field(default_factory=dict)
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
        self._check_processes()
        self._check_objective()
        self._check_sites()
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

    def _check_processes(self) -> None:
        devices, batch, d_sae = self.trainer.devices, self.data.batch_size, self.sae.get("d_sae")
        if devices > 1 and self.trainer.accelerator == "mps":
            raise ValueError(f"trainer.devices={devices}: trainer.accelerator=mps is one device; set trainer.devices=1")
        if not self.trainer.sharded and batch % devices:
            raise ValueError(
                f"data.batch_size={batch}: is the batch of all processes together and must be a multiple of "
                f"trainer.devices={devices}; change the one or the other"
            )
        if self.trainer.sharded and isinstance(d_sae, int) and d_sae % devices:
            raise ValueError(
                f"sae.d_sae={d_sae}: trainer.strategy=model_parallel cuts the features into trainer.devices={devices} "
                "equal parts; choose a multiple of it"
            )

    def _check_sites(self) -> None:
        kind, sites = self.data.kind, self.sites
        if self.data.targets is not None and kind != "activations":
            raise ValueError(f"data.targets={self.data.targets}: goes with data=activations; leave it out")
        if self.data.targets is not None and self.data.heldout is not None:
            raise ValueError(
                f"data.heldout={self.data.heldout}: has no targets beside data.targets; leave it out, and the last "
                "data.heldout_fraction of the rows are held out"
            )
        if self.data.targets is not None and self.data.targets == self.data.path:
            raise ValueError(f"data.targets={self.data.targets}: is the file that is read; leave it out")
        if kind in ("text", "tokens"):
            return
        if sites.transcodes and self.data.targets is None:
            remedy = "give text" if kind == "synthetic" else "give data.targets=... with a row for each, or text"
            raise ValueError(f"sites: data.kind={kind} has rows and no targets for a transcoder to write; {remedy}")
        if sites.layers is not None or sites.diff:
            raise ValueError(f"sites: data.kind={kind} has rows of one site; a crosscoder and sites=diff read text")

    def _check_objective(self) -> None:
        weights = self.objective
        if weights.end_to_end and not any(_counts(self.losses.get(name)) for name in ("logit_kl", "block_mse")):
            raise ValueError(
                f"objective.logit_kl={weights.logit_kl}, objective.block_mse={weights.block_mse}: an end-to-end "
                "objective needs one of them above 0; raise one, or use objective=local"
            )
        if not weights.end_to_end and any(self.losses.get(name) for name in ("logit_kl", "block_mse")):
            raise ValueError(
                "losses.logit_kl, losses.block_mse: are measured through the language model; use objective=e2e_recon"
            )
        if not weights.end_to_end:
            if weights.reconstruction == 0:
                raise ValueError(
                    "objective.reconstruction=0: nothing would be trained on; raise it, or use objective=e2e"
                )
            if weights.logit_kl or weights.block_mse or weights.block_layers is not None:
                raise ValueError(
                    f"objective.logit_kl={weights.logit_kl}, objective.block_mse={weights.block_mse}: objective=local "
                    "does not run the language model; use objective=e2e_recon"
                )
            return
        if self.sites.diff:
            raise ValueError(
                "sites.diff=true: has two language models, and an end-to-end objective is measured through one; use "
                "objective=local"
            )
        if self.lm is None or self.data.kind not in ("text", "tokens"):
            raise ValueError(
                f"objective.end_to_end=true: data.kind={self.data.kind} has no language model to go through; give text "
                "and lm=, or use objective=local"
            )
        if self.lm.dtype == "float16":
            raise ValueError(
                "lm.dtype=float16: gradients through the language model vanish in it; use bfloat16 or float32 with "
                "objective.end_to_end=true"
            )
        if self.data.cache == "only":
            raise ValueError(
                "data.cache=only: forbids reading the language model, and objective.end_to_end=true runs it at every "
                "step; set data.cache=auto"
            )
        if self.data.share < 1:
            raise ValueError(
                f"data.share={self.data.share}: an end-to-end objective takes whole windows; leave it at 1"
            )

    @property
    def tuned(self) -> LMConfig | None:
        """The second language model, where two are read side by side."""
        return self.sites.tuned.beside(self.lm) if self.sites.diff and self.lm is not None else None

    @property
    def stream_seed(self) -> int:
        """The seed of the order of text and rows: ``data.seed``, or the run's."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def total_steps(self) -> int:
        """Optimiser steps: whole batches within the token budget, fewer when trainer.max_steps says so."""
        steps = self.tokens // self.data.batch_size
        return min(steps, self.trainer.max_steps or steps)


def _counts(node: Node | None) -> bool:
    """Whether a loss term of a config ever has a coefficient above 0."""
    coefficient = node.get("coefficient", 1.0) if node else 0.0
    if isinstance(coefficient, dict):
        coefficient = max(coefficient.get("value", 0.0), coefficient.get("final", 0.0))
    return coefficient > 0

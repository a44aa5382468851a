"""The LightningModule: lanes, their summed loss, one elementwise optimiser, many of its steps in a Trainer step."""

from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from sae_lightning.core import ALONE, ActivationBatch, Ranks, UserError, WindowBatch
from sae_lightning.losses import ModelRun
from sae_lightning.training.adam import FusedAdam
from sae_lightning.training.downstream import Downstream
from sae_lightning.training.lane import Lane
from sae_lightning.training.optim import schedule
from sae_lightning.training.stretch import Agenda, Stretch
from sae_lightning.training.together import Together


@dataclass(frozen=True)
class OptimSettings:
    """Adam and the course of its rate: ``warmup`` and ``decay`` are shares of all steps. Each lane has its own."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = 1.0
    warmup: float = 0.05
    decay: float = 0.2
    final: float = 0.0


class SAEModule(L.LightningModule):
    """Lanes on one stream of activations.

    A step sums the lanes' losses, so that each lane's gradients are those of its solo run; clipping is per lane and
    Adam is elementwise, so the weights are, too. A lane of a bank whose loss is no longer a number is dropped
    (``Lane.alive``) and the others go on. ``is_bank``: what each lane writes goes to a folder of its own. The frozen
    language model is no part of this module: it belongs to the data, and its weights never enter a checkpoint
    (``downstream`` is no ``nn.Module``: it splices reconstructions into it for objectives that ask what comes of them).

    Lightning's loop costs 300 us a Trainer step, so a Trainer step is a ``Stretch`` of optimiser steps, and
    ``agenda`` says when it is over. ``trainer.global_step`` counts optimiser steps all the same.

    ranks: processes that train these lanes together, each on its part of every batch (``sharded``: each its part of the
    features). After the backward pass gradients and figures are added up, so that all do the same step.

    Order in a step: forward, backward -> add up over ranks -> callbacks (NaN guard) -> FusedAdam (remove parallel
    gradient -> clip -> Adam -> renormalise decoder) -> count dead features -> callbacks that are due (log -> evaluate);
    where one is due that needs Lightning's loop at rest, the stretch ends (save).
    """

    def __init__(
        self,
        lanes: dict[str, Lane],
        settings: dict[str, OptimSettings],
        total_steps: int,
        *,
        bank: bool | None = None,
        downstream: Downstream | None = None,
        ranks: Ranks = ALONE,
        sharded: bool = False,
    ) -> None:
        super().__init__()
        if total_steps < 1:
            raise ValueError(f"total_steps={total_steps}: must be at least 1; raise the token budget")
        self.automatic_optimization = False
        self.lanes = nn.ModuleDict(lanes)
        self.settings = settings
        self.total_steps = total_steps
        self.is_bank = len(lanes) > 1 if bank is None else bank
        self.agenda = Agenda(total_steps)
        self.downstream = downstream
        self.together = Together(ranks, sharded)
        #: Rows of the last batch, those of other processes too.
        self.batch_rows = 0

    @property
    def ranks(self) -> Ranks:
        """The processes that train this module."""
        return self.together.ranks

    @property
    def sharded(self) -> bool:
        """Whether the ranks hold different features (and not different rows)."""
        return self.together.sharded

    def every_lane(self) -> list[tuple[str, Lane]]:
        """Return (name, lane) pairs, dropped lanes too: one parameter group of the optimiser each, in this order."""
        return [(name, lane) for name, lane in self.lanes.items() if isinstance(lane, Lane)]

    def each_lane(self) -> list[tuple[str, Lane]]:
        """Return (name, lane) pairs of the lanes that train."""
        return [(name, lane) for name, lane in self.every_lane() if lane.alive]

    def adam(self) -> FusedAdam:
        """Return the optimiser of all lanes; it has one parameter group a lane, in the order of ``every_lane``."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, FusedAdam)
        return optimizer

    def rate_of(self, name: str) -> float:
        """Return a lane's present learning rate."""
        return float(self.adam().param_groups[list(self.lanes).index(name)]["lr"])

    def grad_norm_of(self, name: str) -> float:
        """Return the norm of a lane's gradients in the last step, projected and not yet clipped (one host sync)."""
        norm = self.adam().grad_norms[list(self.lanes).index(name)]
        assert norm is not None, "no step has been made"
        return float(norm)

    @property
    def progress(self) -> float:
        """Share of all steps done, in [0, 1]."""
        return min(1.0, self.global_step / self.total_steps)

    def on_fit_start(self) -> None:
        # Adam's moments of features without gradient decay into subnormal numbers, which CPUs compute ten times slower.
        torch.set_flush_denormal(True)

    def teardown(self, stage: str) -> None:
        # The setting is the process's: whoever trains from Python gets exact subnormals back.
        torch.set_flush_denormal(False)

    def training_step(self, stretch: Stretch, batch_idx: int) -> None:
        # Lightning puts its precision's context around the whole call; here it belongs around forward and loss only.
        with torch.autocast(self.device.type, enabled=False):
            self._train(stretch)

    def _train(self, stretch: Stretch) -> None:
        """Do optimiser steps until the stretch is over."""
        counted, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(counted, LightningOptimizer)
        assert isinstance(scheduler, LambdaLR)
        profile = self.trainer.profiler.profile  # pyright: ignore[reportAttributeAccessIssue] - set by a connector
        self.agenda.begin()
        step, over = self.global_step, False
        while not over:
            batch = stretch.pull()
            self._step(batch, step, counted, profile)
            scheduler.step()
            step += 1
            for callback in self.agenda.actors(step):
                with profile(f"[Callback]{type(callback).__name__}.after_step"):
                    callback.after_step(self.trainer, self, batch)
            over = self.agenda.over(step) or self.trainer.should_stop or self.together.stop is not None
        # A Trainer without max_steps would read on.
        self.trainer.should_stop |= step >= self.total_steps

    def _step(self, batch: ActivationBatch, step: int, counted: LightningOptimizer, profile: Any) -> None:
        """Do the optimiser step that comes after ``step`` of them."""
        hooks, adam, lanes = self.agenda.hooks, counted.optimizer, [lane for _, lane in self.each_lane()]
        self._call(hooks["on_before_zero_grad"], adam)
        for group in adam.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        with profile("forward_and_loss"), self.trainer.precision_plugin.forward_context():
            clean = self._clean(batch)
            progress = min(1.0, step / self.total_steps)
            self.batch_rows = rows = self.together.rows(batch)
            losses = [lane.step(batch, progress, self.downstream, clean, rows) for lane in lanes]
            loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        self._call(hooks["on_before_backward"], loss)
        with profile("backward"):
            loss.backward()
        self._call(hooks["on_after_backward"])
        with profile("add_up"):
            self.together.add_up(lanes, len(batch), rows, step)
        self._call(hooks["on_before_optimizer_step"], adam)
        # LightningOptimizer.step without its round of all callbacks' hooks: it counts the step and tells the profiler.
        counted._on_before_step()
        adam.step()
        counted._on_after_step()
        for lane in lanes:
            if lane.alive and lane.counts_tokens:
                lane.count(rows)

    def _clean(self, batch: ActivationBatch) -> ModelRun | None:
        """Return what the language model makes of the batch as it is: once for all lanes."""
        return self.downstream.clean(batch) if self.downstream and isinstance(batch, WindowBatch) else None

    def _call(self, hooks: list[Any], *arguments: Any) -> None:
        for hook in hooks:
            hook(self.trainer, self, *arguments)

    def configure_optimizers(self) -> Any:
        groups = [
            {
                "params": list(lane.sae.parameters()),
                "lr": self.settings[name].lr,
                "betas": self.settings[name].betas,
                "eps": self.settings[name].eps,
                "clip": self.settings[name].clip,
                "decoder": [n for n, _ in lane.sae.named_parameters()].index("W_dec"),
                "shared": [i for i, (n, _) in enumerate(lane.sae.named_parameters()) if n in lane.sae.without_features],
            }
            for name, lane in self.every_lane()
        ]
        optimizer = FusedAdam(groups, ranks=self.ranks if self.sharded else ALONE)
        own = [self.settings[name] for name, _ in self.every_lane()]
        scheduler = schedule(optimizer, self.total_steps, [(s.warmup, s.decay, s.final) for s in own])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        for _, lane in self.every_lane():
            lane.alive = not self.is_bank or lane.first_bad() < 0  # dropped before a restart
        if not self.sharded:
            for value in (*self.parameters(), *self.buffers()):
                # Made alike by all; but other devices round in other ways.
                self.ranks.from_first(value.data.t() if value.ndim == 2 and not value.is_contiguous() else value.data)
        callbacks: list[L.Callback] = getattr(self.trainer, "callbacks", [])
        self.agenda.consult(callbacks, self.trainer.max_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["torch_rng_state"] = torch.get_rng_state()
        checkpoint["shards"] = self.ranks.world if self.sharded else 1

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        shards, own = checkpoint.get("shards", 1), self.ranks.world if self.sharded else 1
        if shards != own:
            raise UserError(
                f"trainer.devices={self.ranks.world}: the checkpoint is that of {shards} process(es) with a part of "
                f"the features each, and this run's have {own}; go on as it began, or start a new run"
            )
        torch.set_rng_state(checkpoint["torch_rng_state"].cpu())

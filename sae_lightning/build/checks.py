"""What is checked before anything slow is loaded: every ``_target_`` node against its class, and the machine."""

import lightning as L
import torch
from lightning.pytorch.loggers import Logger

from sae_lightning.build.instantiate import check_node, target_of
from sae_lightning.build.lanes import build_objective, sae_node
from sae_lightning.config import Node, RunConfig
from sae_lightning.core import UserError
from sae_lightning.sae import initialise
from sae_lightning.validation import check_arguments


def check_nodes(config: RunConfig) -> None:
    """Check every ``_target_`` node of a lane or a run against its class. Raises UserError."""
    # The converted values take the raw ones' place: a quoted number is a number from here on.
    config.sae.update(check_node(sae_node(config), "sae", {"d_in", "d_out", "site_widths"}))
    if (k := config.sae.get("k") or 0) > config.sae["d_sae"]:
        raise UserError(f"sae.k={k}: must be at most sae.d_sae={config.sae['d_sae']}; lower sae.k or raise sae.d_sae")
    build_objective(config).check_reconstructs()
    if config.trainer.accelerator not in ("auto", "cpu") and not accelerator_there(config.trainer.accelerator):
        raise UserError(
            f"trainer.accelerator={config.trainer.accelerator}: this machine has none; use trainer.accelerator=auto"
        )
    check_arguments(initialise, config.init, "init", {"sae", "sample_x", "sample_y", "seed"})
    for name, node in config.callbacks.items():
        if node:
            check_kind(node, f"callbacks.{name}", L.Callback)
            check_node(node, f"callbacks.{name}", {"run_dir"})
    for name, node in config.logger.items():
        if node:
            check_kind(node, f"logger.{name}", Logger)
            check_node(node, f"logger.{name}", {"save_dir", "name", "version"})
    if config.data.source is not None:
        check_node(config.data.source, "data.source", set())
    if not config.callbacks.get("dead_features"):
        raise UserError("callbacks.dead_features=null: it counts the tokens of a run; leave it in")


def check_kind(node: Node, where: str, kind: type) -> None:
    """Raise UserError unless a node's target is a class of this kind."""
    target = target_of(node, where)
    if not (isinstance(target, type) and issubclass(target, kind)):
        raise UserError(f"{where}._target_={node['_target_']}: must be a {kind.__name__}; name a class of that kind")


def accelerator_there(name: str) -> bool:
    """Tell whether the machine has the accelerator of this name."""
    return torch.backends.mps.is_available() if name == "mps" else torch.cuda.is_available()

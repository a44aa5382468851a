"""What a run needs in memory, before it takes it."""

from dataclasses import astuple, dataclass
from pathlib import Path

import psutil
import torch

from sae_lightning.core import UserError

_DENSE_COPIES = 4


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of each part of a run on its device.

    sae, gradients and adam: 4, 4 and 8 bytes a parameter. buffer: twice its rows, since a refill builds the new
    content before it lets go of the old. pre_activations: of sparse architectures a block of them and half as much for
    choosing among them, of dense ones four copies of [batch, d_sae] that live at once. through: what a run of the rest
    of the language model keeps for its gradients (see ``run_bytes``), where an objective asks for one.
    """

    lm: int
    sae: int
    gradients: int
    adam: int
    buffer: int
    pre_activations: int
    through: int = 0

    def __add__(self, other: "MemoryNeed") -> "MemoryNeed":
        """Return the need of both, as the lanes of a bank have it."""
        return MemoryNeed(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def total(self) -> int:
        """Sum of the parts that are not there yet: the language model has been loaded already."""
        return self.sae + self.gradients + self.adam + self.buffer + self.pre_activations + self.through

    def describe(self) -> str:
        """Return the parts in MiB."""
        parts = {
            "LM": self.lm,
            "SAE": self.sae,
            "gradients": self.gradients,
            "Adam": self.adam,
            "buffer": self.buffer,
            "pre-activations": self.pre_activations,
            "runs of the LM": self.through,
        }
        return ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in parts.items() if size) + " MiB"


def estimate(
    *,
    d_in: int,
    d_out: int,
    d_sae: int,
    batch_size: int,
    buffer_rows: int,
    row_bytes: int,
    sparse: bool,
    lm_bytes: int,
    block_bytes: int,
) -> MemoryNeed:
    """Return what a run of one lane needs. block_bytes: of pre-activations that a sparse one makes at a time."""
    parameters = d_sae * (d_in + d_out + 2) + d_out
    whole = 4 * batch_size * d_sae
    return MemoryNeed(
        lm=lm_bytes,
        sae=4 * parameters,
        gradients=4 * parameters,
        adam=8 * parameters,
        buffer=2 * buffer_rows * row_bytes,
        pre_activations=3 * min(whole, block_bytes) // 2 if sparse else _DENSE_COPIES * whole,
    )


def run_bytes(positions: int, vocab_size: int, d_model: int, layers: int, itemsize: int) -> int:
    """Return roughly what a clean and a spliced run keep: logits thrice, and what each block needs for its gradient.

    A block of the usual shape (attention, a gated MLP four times as wide) keeps about 24 d_model numbers a token.
    """
    return positions * itemsize * (3 * vocab_size + 24 * d_model * layers)


def available_memory(device: torch.device) -> int:
    """Return the bytes that a run may still take on a device; a container's limit counts."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = psutil.virtual_memory().available
    limit = Path("/sys/fs/cgroup/memory.max")
    used = Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        statistics = Path("/sys/fs/cgroup/memory.stat")
        stat = dict(line.split() for line in statistics.read_text().splitlines()) if statistics.is_file() else {}
        # Page cache counts as used there, and is given up when somebody needs it.
        available = min(available, int(text) - int(used.read_text()) + int(stat.get("inactive_file", 0)))
    return available


def check_memory(need: MemoryNeed, device: torch.device) -> None:
    """Raise UserError with the numbers when a run cannot fit."""
    available = available_memory(device)
    if need.total > available:
        raise UserError(
            f"memory: this run needs {need.total / 2**30:.1f} GiB more on {device} ({need.describe()}) and "
            f"{available / 2**30:.1f} GiB are free; lower sae.d_sae, data.buffer_tokens or data.batch_size"
        )

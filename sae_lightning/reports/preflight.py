"""The preflight: what the model reads and what the activations look like, before a run spends hours on them."""

from dataclasses import dataclass

from sae_lightning.activations import ActivationStats
from sae_lightning.training.memory import MemoryNeed


@dataclass
class Preflight:
    """What is shown before training; the language parts are None where activations come from a file."""

    stats: ActivationStats
    need: MemoryNeed
    available: int
    centred: bool
    window: str | None = None
    cross_entropy: float | None = None
    n_windows: int | None = None
    n_documents: int | None = None
    cache: str | None = None


def preflight_text(check: Preflight) -> str:
    """Return the preflight as lines of text."""
    lines = []
    if check.window is not None:
        shown = " ".join(check.window.split())
        lines.append(f"first window: {shown[:300]}{'...' if len(shown) > 300 else ''}")
        lines.append(f"the model's cross-entropy on it: {check.cross_entropy:.3f} nats a token")
    if check.n_windows is not None:
        lines.append(f"{check.n_documents:,} documents, {check.n_windows:,} training windows")
    if check.cache is not None:
        lines.append(f"activations are read from {check.cache}")
    s = check.stats
    lines.append(
        f"activations ({s.n:,} sampled tokens): median norm {s.median_norm:.1f}, mean {s.mean_norm:.1f}, "
        f"largest {s.max_norm:.1f}; gamma = ||mean|| / std = {s.gamma:.2f}, "
        f"{'centred' if check.centred else 'not centred'}"
    )
    lines.append(
        f"masked: {s.masked_share:.2%} of the tokens, with {s.masked_energy_share:.1%} of the energy (squared norm)"
    )
    lines.append(
        f"memory: {check.need.describe()}; {check.need.total / 2**20:,.0f} MiB to take, "
        f"{check.available / 2**20:,.0f} MiB free"
    )
    return "\n".join(lines)

"""What the language model loses when a reconstruction takes the place of an activation."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.metrics.running import SumMetric, ratio

RUNS = ("spliced", "zero", "mean")


class DownstreamLoss(SumMetric):
    """Next-token losses in nats, over every predicted real token, of four runs of the language model.

    ``clean``; ``spliced`` (the reconstruction in place of the activation); ``zero`` and ``mean`` ablation (0, or the
    mean activation, in the same places). With ``KL_r = KL(clean || r)``:

    - ``delta_ce = CE_spliced - CE_clean``
    - ``ce_recovered_a = (CE_a - CE_spliced) / (CE_a - CE_clean)`` for a in zero, mean
    - ``kl = KL_spliced`` and ``kl_recovered_a = (KL_a - KL_spliced) / KL_a``

    An ablation that costs nothing leaves its recovered share NaN. of: which of several models it is about; its values
    are then called ``delta_ce/OF`` and so on.
    """

    _fields = ("n", "ce_clean", "ce", "divergence")

    def __init__(self, device: torch.device | str = "cpu", of: str | None = None) -> None:
        self.of = of
        self.n = torch.zeros((), dtype=torch.int64, device=device)
        self.ce_clean = torch.zeros((), dtype=torch.float64, device=device)
        self.ce, self.divergence = (torch.zeros(len(RUNS), dtype=torch.float64, device=device) for _ in range(2))

    def update_clean(self, ce: Float[Tensor, "n"]) -> None:
        """Add the clean run's per-token cross-entropies; sets how many tokens there are."""
        self.n = self.n + ce.numel()
        self.ce_clean = self.ce_clean + ce.detach().sum(dtype=torch.float64).to(self.ce_clean.device)

    def update_run(self, run: str, ce: Float[Tensor, "n"], kl: Float[Tensor, "n"]) -> None:
        """Add the same tokens' losses under ``run``, one of ``RUNS``."""
        place = torch.tensor([float(run == r) for r in RUNS], dtype=torch.float64, device=self.ce.device)
        assert place.sum() == 1, run
        self.ce = self.ce + place * ce.detach().sum(dtype=torch.float64).to(place.device)
        self.divergence = self.divergence + place * kl.detach().sum(dtype=torch.float64).to(place.device)

    def values(self, sums: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        n = sums["n"]
        clean = ratio(sums["ce_clean"], n)
        ce = {run: ratio(sums["ce"][:, i], n) for i, run in enumerate(RUNS)}
        kl = {run: ratio(sums["divergence"][:, i], n) for i, run in enumerate(RUNS)}
        values = {
            "ce_clean": clean,
            "ce_spliced": ce["spliced"],
            "delta_ce": ce["spliced"] - clean,
            "kl": kl["spliced"],
        }
        for run in ("zero", "mean"):
            values[f"ce_{run}"] = ce[run]
            values[f"ce_recovered_{run}"] = ratio(ce[run] - ce["spliced"], ce[run] - clean)
            values[f"kl_recovered_{run}"] = ratio(kl[run] - kl["spliced"], kl[run])
        return values if self.of is None else {f"{name}/{self.of}": value for name, value in values.items()}

"""What does the language model lose when the reconstruction takes the activation's place?"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lightning.activations import Harvester
from sae_lightning.core import TokenBatch, UserError
from sae_lightning.lm import FrozenLM
from sae_lightning.lm.crossentropy import kl, loss, predicted
from sae_lightning.lm.sites import site_layer
from sae_lightning.metrics import FVU, DownstreamLoss
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.studies.progress import track
from sae_lightning.studies.study import Result, Study, defined
from sae_lightning.studies.subject import Subject, inference

# Numbers in one chunk's [windows, pos, vocab] logits: 256 MB in float32. Two such are alive at once.
_LOGITS = 1 << 26


class DownstreamStudy(Study):
    """``ce_clean ce_spliced delta_ce kl ce_recovered_zero ce_recovered_mean ...``, formulas in ``DownstreamLoss``.

    Four runs of the language model per window, in chunks that bound memory: clean, spliced, zero and mean ablation.
    All edits are made where the keep mask of training is True; masked positions keep what the model computes. Losses
    count at every position whose *target* is a real token, masked or not. The clean run goes through the same code as
    the edited ones, so an identity SAE scores ``delta_ce`` 0, ``kl`` 0 and ``ce_recovered`` 1 exactly.

    mean: the activation that mean ablation writes, [d_out]; None takes the mean over the subject's rows, which costs
        one more pass of the language model's lower layers.
    """

    name = "downstream"

    def __init__(self, mean: Float[Tensor, "d_out"] | None = None, show_progress: bool = True) -> None:
        self.mean = mean
        self.show_progress = show_progress

    def run(self, subject: Subject) -> Result:
        lm, harvester = subject.lm, subject.harvester
        if lm is None or harvester is None or len(subject.windows) == 0:
            raise UserError("downstream losses: need a language model and held-out windows; choose an lm, not lm=none")
        metric = DownstreamLoss()
        with inference(subject.sae):
            mean = (_mean_target(subject) if self.mean is None else self.mean).to(subject.device, torch.float32)
            chunks = list(_chunks([int(w) for w in subject.windows], _windows_at_a_time(lm, harvester)))
            for windows in track(chunks, len(chunks), "downstream losses", self.show_progress):
                _measure(lm, harvester, subject.sae, windows, mean, metric)
        return Result(defined(metric.compute()), int(metric.n))


def _windows_at_a_time(lm: FrozenLM, harvester: Harvester) -> int:
    per_window = harvester.windows.context_length * lm.vocab_size
    return max(1, min(_LOGITS // per_window, harvester.micro_batch))


def _chunks(numbers: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _mean_target(subject: Subject) -> Float[Tensor, "d_out"]:
    fvu = FVU(subject.sae.d_out, subject.device)
    for batch in subject.row_batches():
        fvu.update(batch.y, batch.y)
    return fvu.mean


def _measure(
    lm: FrozenLM, harvester: Harvester, sae: SparseAutoencoder, windows: list[int], mean: Tensor, metric: DownstreamLoss
) -> None:
    """Add the four runs' losses on a few windows to ``metric``."""
    # These few windows at once, and not padded to the micro-batch of the harvest.
    batch, acts, targets, keep = harvester.with_micro_batch(len(windows)).full_with_targets(windows)
    splice = _Splice(lm, harvester.sites.write, batch, targets, keep)
    clean = splice.clean()
    metric.update_clean(_losses(clean, batch))
    rows = acts[keep].to(mean)
    written: dict[str, Callable[[], Tensor]] = {
        "spliced": lambda: sae(rows).y_hat,
        "zero": lambda: torch.zeros_like(mean).expand(len(rows), -1),
        "mean": lambda: mean.expand(len(rows), -1),
    }
    for run, make in written.items():
        logits = splice.run(make())
        metric.update_run(run, _losses(logits, batch), _divergences(clean, logits, batch))


def _losses(logits: Float[Tensor, "b p vocab"], batch: TokenBatch) -> Float[Tensor, "n"]:
    real = predicted(batch.mask).to(logits.device)
    return loss(logits, batch.tokens)[real]


def _divergences(clean: Tensor, logits: Tensor, batch: TokenBatch) -> Float[Tensor, "n"]:
    real = predicted(batch.mask).to(logits.device)
    return kl(clean[:, :-1], logits[:, :-1])[real]


class _Splice:
    """Runs of the language model on the same windows with something else written at the sites."""

    def __init__(
        self,
        lm: FrozenLM,
        sites: tuple[str, ...],
        batch: TokenBatch,
        clean_acts: Float[Tensor, "b p d_out"],
        keep: Bool[Tensor, "b p"],
    ) -> None:
        self.lm, self.sites, self.batch, self.clean_acts, self.keep = lm, sites, batch, clean_acts, keep
        self.start = _resume_site(sites)

    def clean(self) -> Float[Tensor, "b p vocab"]:
        """Run with the sites' own activations written back: the same arithmetic as every other run."""
        return self._logits(self.clean_acts)

    def run(self, rows: Float[Tensor, "n d_out"]) -> Float[Tensor, "b p vocab"]:
        """Run with ``rows`` written where the mask is True."""
        edited = self.clean_acts.clone()
        edited[self.keep] = rows.to(edited)
        return self._logits(edited)

    def _by_site(self, acts: Float[Tensor, "b p d_out"]) -> dict[str, Tensor]:
        widths = [self.lm.site_width(site) for site in self.sites]
        return dict(zip(self.sites, acts.split(widths, dim=-1), strict=True))

    def _logits(self, acts: Float[Tensor, "b p d_out"]) -> Float[Tensor, "b p vocab"]:
        start = None if self.start is None else (self.start, self._by_site(self.clean_acts)[self.start])
        return self.lm.logits(self.batch.tokens, self._by_site(acts), keep=self.keep, start=start)


def _resume_site(sites: tuple[str, ...]) -> str | None:
    """Return the residual site below every other one, where a run may start; None where there is none."""
    layers = {site: site_layer(site) for site in sites}
    known = [layer for layer in layers.values() if layer is not None]
    if len(known) < len(sites):
        return None
    lowest = [site for site in sites if layers[site] == min(known)]
    return lowest[0] if len(lowest) == 1 and lowest[0].endswith(".hook_resid_post") else None

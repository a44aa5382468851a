"""Which features of a diffing crosscoder are really one model's own? Asked of the other model's activations."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float, Int
from torch import Tensor

from sae_lightning.metrics import RunningMetric
from sae_lightning.metrics.running import SumMetric, ratio
from sae_lightning.studies.passes import Pass, Window
from sae_lightning.studies.sharing import SHARED, Written, kinds_by_norm, planted_kinds, word
from sae_lightning.studies.study import Cell, Table
from sae_lightning.studies.subject import Subject
from sae_lightning.studies.windows import WindowStudy

COLUMNS = ("feature", "fires", "share", "stronger", "nu_error", "low", "high", "nu_reconstruction", "by norm")
_CHUNK = 1 << 23  # numbers of one chunk's pairs times width, float64


class LatentScalingStudy(WindowStudy):
    """Latent scaling (Minder et al. 2025): how much of feature j is there in the model that writes less of it?

    With d_j the decoder direction in the model where it is longer (the stronger one), ``d_j^m`` that of model m, f_j
    the activation, ``eps^m = y^m - y_hat^m``, and sums over the tokens on which j is active:

    - ``beta_j^m = argmin_b sum ||b f_j d_j - (eps^m + f_j d_j^m)||^2``
      ``= sum f_j d_j . (eps^m + f_j d_j^m) / (||d_j||^2 sum f_j^2)``: m's activations without the other features;
    - ``nu_error = beta_j^weaker / beta_j^stronger``: near 1 where the weaker model's error holds the feature as well,
      which an L1 penalty leaves out of its decoder (complete shrinkage);
    - ``nu_reconstruction``: the same with ``y_hat^m - b_dec^m`` in place of the error term: large where another
      feature of the weaker model fires along with j in its place (latent decoupling).

    A feature is one model's own where ``nu_error < error`` and ``nu_reconstruction < reconstruction``, and shared
    otherwise. Closed form, one pass, float64, in units of the normalised sites. Figures are shares of the features that
    fired ``min_firings`` times: ``scaled_shared``, ``scaled_only/MODEL``; ``scaled_overturned``: of those that the
    decoder norms give to one model alone (``exclusive``, as in the study ``sites``), the share found to be shared.
    With planted features of two models: ``scaled_right`` and ``scaled_invented``, as in ``sites``.

    The direction of one model is looked for in the other, so it is for two models with one basis: a tuned copy of the
    base. Intervals of figures: a bootstrap over windows. Of nu_error of a feature, in the table: Student's, from the
    spread of the ratio over the windows in which the feature fires.

    rows: of the table, features that the norms give to one model first, then by how often they fire.
    """

    name: ClassVar[str] = "latent_scaling"

    def __init__(
        self,
        error: Annotated[float, Gt(0), Lt(1)] = 0.2,
        reconstruction: Annotated[float, Gt(0), Lt(1)] = 0.5,
        exclusive: Annotated[float, Gt(0.5), Lt(1)] = 0.9,
        matched: Annotated[float, Gt(0), Lt(1)] = 0.8,
        min_firings: Annotated[int, Ge(1)] = 20,
        rows: Annotated[int, Ge(0)] = 200,
        show_progress: bool = True,
    ) -> None:
        self.error, self.reconstruction, self.exclusive = error, reconstruction, exclusive
        self.matched, self.min_firings, self.rows = matched, min_firings, rows
        self.show_progress = show_progress

    def reason(self, subject: Subject) -> str | None:
        written = Written.of(subject.sae)
        widths = [part.stop - part.start for part in written.parts.values()]
        if tuple(written.parts) != ("base", "tuned"):
            return "needs an SAE of two models (sites=diff, or data=two_models)"
        if widths[0] != widths[1]:
            return f"needs two models of one width, these have {widths[0]} and {widths[1]}: no basis in common"
        return None

    def measure(self, subject: Subject, unit: Pass) -> list[tuple[RunningMetric, ...]]:
        written = Written.of(subject.sae)
        shares = written.shares(subject.sae)
        stronger = shares.nan_to_num(0.0).argmax(1)
        fresh = Scaling(
            tuple(written.parts),
            stronger,
            kinds_by_norm(shares, self.exclusive),
            planted_kinds(subject, written, self.matched),
            (self.error, self.reconstruction, self.min_firings),
        )
        parts = tuple(written.parts.values())
        rows = torch.stack([written.rows(subject.sae)[:, part] for part in parts], dim=1)
        scale, bias = written.scale(subject.device), subject.sae.b_dec.detach().double()
        out: list[tuple[RunningMetric, ...]] = []
        for window in unit.windows():
            metric = fresh.fresh()
            metric.update(window, rows, scale, bias)
            out.append((metric,))
        return out

    def tables(self, subject: Subject, metrics: tuple[RunningMetric, ...]) -> dict[str, Table]:
        found = metrics[0]
        assert isinstance(found, Scaling)
        written = Written.of(subject.sae)
        shares = written.shares(subject.sae).cpu()
        sums = found.state()
        nu, nu_reconstruction, kinds = (value[0].cpu() for value in found.told({k: v[None] for k, v in sums.items()}))
        low, high = found.limits()
        by_norm, fires = found.by_norm.cpu(), found.fired.cpu()
        order = (fires + (by_norm != SHARED) * (int(fires.max()) + 1)).argsort(descending=True, stable=True)
        order = order[(fires[order] >= self.min_firings) & nu[order].isfinite()]
        names = list(written.parts)
        rows: list[tuple[Cell, ...]] = [
            (
                i,
                float(fires[i]) / max(1, int(found.n)),
                float(shares[i, 1]),
                names[int(found.stronger[i])],
                *(float(part[i]) for part in (nu, low, high, nu_reconstruction)),
                word(int(by_norm[i]), written.parts),
                word(int(kinds[i]), written.parts),
            )
            for i in order[: self.rows].tolist()
        ]
        unsure = int(((low < self.error) & (high >= self.error))[order].sum())
        caption = (
            f"{len(rows):,} of {len(order):,} features that fired {self.min_firings} times or more; share: the tuned "
            f"model's of the decoder norm; one model's own where nu_error < {self.error:g} and nu_reconstruction < "
            f"{self.reconstruction:g}. Of {unsure:,} the interval of nu_error holds that cut"
        )
        edges = torch.linspace(-0.5, 1.5, 41, dtype=torch.float64)
        place = torch.bucketize(nu[order], edges, right=True).clamp(1, 40) - 1
        counts = torch.bincount(place, minlength=40)
        bars = tuple((float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True))
        drawn = Table(
            ("from", "to", "features"), bars, f"nu_error of {len(order):,} features (those beyond are in the end bars)"
        )
        return {"nu_histogram": drawn, "features": Table((*COLUMNS, "by scaling"), tuple(rows), caption)}


class Scaling(SumMetric):
    """The sums behind ``nu`` of every feature, and what follows from them.

    stronger [F]: the part (0 or 1) where the decoder direction is longer. by_norm [F], planted [F]: kinds, see
    ``sharing``. cuts: of nu_error, of nu_reconstruction, least firings.

    State: tokens n, and by feature: fired; error and reconstruction [F, 2]: ``sum f_j d_j . target^m`` for m the weaker
    and the stronger model; squares [F, 3]: over windows, weaker^2, weaker x stronger, stronger^2 of ``error``; windows
    in which it fired. One instance may be updated with one window only: the squares are of its sums.
    """

    _fields = ("n", "fired", "error", "reconstruction", "squares", "windows")

    def __init__(
        self,
        parts: tuple[str, ...],
        stronger: Int[Tensor, "F"],
        by_norm: Int[Tensor, "F"],
        planted: Int[Tensor, "F"] | None,
        cuts: tuple[float, float, int],
    ) -> None:
        self.parts, self.stronger, self.by_norm, self.planted, self.cuts = parts, stronger, by_norm, planted, cuts
        zero = torch.zeros(len(stronger), dtype=torch.float64, device=stronger.device)
        self.n = zero.new_zeros((), dtype=torch.int64)
        self.fired, self.windows = zero.clone(), zero.clone()
        self.error, self.reconstruction = zero.new_zeros(len(zero), 2), zero.new_zeros(len(zero), 2)
        self.squares = zero.new_zeros(len(zero), 3)

    def fresh(self) -> "Scaling":
        """Return one that has seen nothing, of the same features."""
        return Scaling(self.parts, self.stronger, self.by_norm, self.planted, self.cuts)

    def update(
        self, window: Window, rows: Float[Tensor, "F 2 d"], scale: Float[Tensor, "2d"], bias: Float[Tensor, "2d"]
    ) -> None:
        """Take in one window. rows: decoder rows of both models, normalised; scale, bias: of the output's columns."""
        assert not self.n, "one window an instance"
        token, feature, value = window.features.triples()
        f = value.double()
        y_hat = window.y_hat.double()
        left = (
            ((window.y.double() - y_hat) * scale).unflatten(1, (2, -1)),
            ((y_hat - bias) * scale).unflatten(1, (2, -1)),
        )
        weaker_first = torch.stack([1 - self.stronger, self.stronger], dim=1)
        sums = [torch.zeros_like(self.error), torch.zeros_like(self.reconstruction)]
        step = max(1, _CHUNK // rows.shape[-1])
        for first in range(0, len(f), step):
            t, j, v = (part[first : first + step] for part in (token, feature, f))
            d = rows[j, self.stronger[j]]
            for number, target in enumerate(left):
                along = torch.einsum("pd,pmd->pm", d, target[t])
                if number == 0:
                    along = along + v[:, None] * torch.einsum("pd,pmd->pm", d, rows[j])
                along = along.gather(1, weaker_first[j])
                sums[number].index_add_(0, j, v[:, None] * along)
        self.n = self.n + window.features.n_rows
        self.fired = torch.bincount(feature, minlength=len(self.fired)).double()
        self.windows = (self.fired > 0).double()
        self.error, self.reconstruction = sums
        weaker, stronger = sums[0].unbind(1)
        self.squares = torch.stack([weaker.square(), weaker * stronger, stronger.square()], dim=1)

    def pool(self, states: Mapping[str, Tensor], weights: Float[Tensor, "B W"]) -> dict[str, Tensor]:
        # Draws need no intervals of their own.
        return super().pool({**states, "squares": states["n"], "windows": states["n"]}, weights)

    def told(self, sums: Mapping[str, Tensor]) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F"], Int[Tensor, "B F"]]:
        """Return nu_error, nu_reconstruction and the kind of each feature."""
        nu = [_nu(sums[name]) for name in ("error", "reconstruction")]
        own = (nu[0] < self.cuts[0]) & (nu[1] < self.cuts[1])
        return nu[0], nu[1], torch.where(own, self.stronger.to(own.device), SHARED)

    def values(self, sums: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        nu, apart, kinds = self.told(sums)
        there = (sums["fired"] >= self.cuts[2]) & nu.isfinite() & apart.isfinite()
        by_norm = self.by_norm.to(kinds.device)

        def share(of: Tensor, among: Tensor) -> Tensor:
            return ratio((of & among).sum(-1), among.sum(-1))

        out = {"scaled_shared": share(kinds == SHARED, there)}
        out |= {f"scaled_only/{name}": share(kinds == part, there) for part, name in enumerate(self.parts)}
        out["scaled_overturned"] = share(kinds == SHARED, there & (by_norm != SHARED))
        if self.planted is not None:
            planted = self.planted.to(kinds.device)
            out["scaled_right"] = share(kinds == planted, there & (planted != -2))
            out["scaled_invented"] = share(kinds != SHARED, there & (planted == SHARED))
        return out

    def limits(self) -> tuple[Float[Tensor, "F"], Float[Tensor, "F"]]:
        """Return the ends of the 95 % interval of each feature's nu_error; NaN of fewer than two windows.

        ``nu = A / B`` of sums over n windows has variance ``n / (n - 1) sum_w (a_w - nu b_w)^2 / B^2``.
        """
        from scipy.special import stdtrit

        nu, n = _nu(self.error).cpu(), self.windows.cpu()
        aa, ab, bb = self.squares.cpu().unbind(1)
        spread = (aa - 2 * nu * ab + nu.square() * bb).clamp(min=0)
        variance = n / (n - 1).clamp(min=1) * spread / self.error[:, 1].cpu().square()
        reach = torch.from_numpy(np.where(n > 1, stdtrit(np.maximum(n - 1, 1), 0.975), np.nan)) * variance.sqrt()
        return nu - reach, nu + reach


def _nu(sums: Float[Tensor, "*b F 2"]) -> Float[Tensor, "*b F"]:
    """Return weaker over stronger; NaN where the stronger model's own activations do not hold the feature."""
    weaker, stronger = sums.unbind(-1)
    return torch.where(stronger > 0, weaker / torch.where(stronger > 0, stronger, 1.0), torch.nan)

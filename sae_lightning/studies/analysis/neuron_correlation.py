"""Is a feature just a neuron?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import NonNegativeInt
from torch import Tensor

from sae_lightning.activations import Harvester
from sae_lightning.core import Estimate, Permutation, Sites, UserError, derive_seed
from sae_lightning.studies.analysis.cross_sums import Active, CrossSums
from sae_lightning.studies.layers_seen import guess, layers_seen
from sae_lightning.studies.over_features import mean_estimate
from sae_lightning.studies.passes import Pass, read_unit
from sae_lightning.studies.progress import track
from sae_lightning.studies.study import Cell, Result, Study, Table
from sae_lightning.studies.subject import NEEDS_LM, NEEDS_ONE_LM, UNIT_TOKENS, Subject, inference
from sae_lightning.studies.windows import DRAWS

COLUMNS = ("feature", "layer", "neuron", "correlation", "firings")
_SHARES = (0.3, 0.5)
# Sums of features times neurons that one pass of the data makes: 1 GiB in float64.
_SUMS = 1 << 27


@dataclass(frozen=True)
class Best:
    """Each feature's neuron of the largest |r|: layer and neuron [F], -1 and NaN where there is none."""

    layer: Int[NDArray, "F"]
    neuron: Int[NDArray, "F"]
    r: Float[NDArray, "F"]

    @classmethod
    def none(cls, n: int) -> "Best":
        return cls(np.full(n, -1, np.int32), np.full(n, -1, np.int32), np.full(n, np.nan))

    def take(self, layer: int, neuron: Int[NDArray, "F"], r: Float[NDArray, "F"]) -> None:
        """Take what ``layer`` has where its |r| is larger than what was there."""
        better = np.nan_to_num(np.abs(r), nan=-1.0) > np.nan_to_num(np.abs(self.r), nan=-1.0)
        self.layer[better], self.neuron[better], self.r[better] = layer, neuron[better], r[better]


class NeuronCorrelationStudy(Study):
    """``neuron_layer neuron neuron_correlation`` [F]: the MLP neuron that goes most with each feature.

    Pearson's ``r(f, n) = cov(f, n) / (sd f sd n)`` over the tokens that the SAE's mask keeps, of a feature's activation
    (0 where it is off) with that of every neuron of every MLP whose output the read site sees; taken is the neuron of
    the largest |r| (of equal ones the lower layer, then the lower number). A gated MLP's neuron is what its
    down-projection reads. Sums are float64. Features that fire on fewer than ``min_firings`` of the tokens read have
    -1 and NaN: one firing correlates with whichever neuron happens to be large there.

    Estimates are over the features left, their intervals a bootstrap over features, and they count features:

    - ``neuron_correlation_mean``: mean of the largest |r|;
    - ``neuron_correlation_share_0.3``, ``..._0.5``: share of features with a neuron above that;
    - ``neuron_correlation_shuffled``: the mean for ``control`` features drawn at random whose activations were dealt
      out anew among the tokens of each 4,096: what the best of so many neurons comes to by chance.

    tokens: in windows spread evenly over the text; null: all of it. neurons: the site of a layer's neurons. layers: in
    place of those that the read site sees, as far as its name tells (a note says where it doesn't). shown: pairs in the
    table. seed: of control and bootstrap.

    Memory: the sums of features times neurons take 1 GiB at most; where there are more, layers go by in blocks, each a
    pass of the data. SmolLM2 up to layer 9, 4,608 features: 49,152 tokens take about 50 s on 2 free cores.

    Pearson's r follows the tokens of the largest activations: where a few outweigh all others, features and neurons
    that meet there look alike. The table of pairs shows it as one neuron beside many features.

    Source: Templeton et al. 2024, "Scaling Monosemanticity", features against neurons: 82 % of theirs have no neuron
    above 0.3.

    Raises UserError without a language model, for a site without neurons, and where no MLP lies before the SAE.
    """

    name: ClassVar[str] = "neuron_correlation"
    reads_store: ClassVar[bool] = True

    def __init__(
        self,
        tokens: Annotated[int, Ge(1)] | None = 49152,
        min_firings: Annotated[int, Ge(2)] = 16,
        neurons: str = "blocks.{layer}.mlp.hook_post",
        layers: Sequence[NonNegativeInt] | None = None,
        control: Annotated[int, Ge(0)] = 256,
        shown: Annotated[int, Ge(1)] = 50,
        seed: int = 0,
        draws: Annotated[int, Ge(100)] = DRAWS,
        show_progress: bool = True,
    ) -> None:
        if "{layer}" not in neurons:
            raise UserError(f"studies.neuron_correlation.neurons={neurons!r}: write {{layer}} where its number goes")
        self.tokens, self.min_firings, self.neurons = tokens, min_firings, neurons
        self.layers = None if layers is None else tuple(sorted(set(layers)))
        self.control, self.shown = control, shown
        self.seed, self.draws, self.show_progress = seed, draws, show_progress

    def reason(self, subject: Subject) -> str | None:
        if not subject.has_lm:
            return NEEDS_LM
        if not subject.has_one_lm:
            return NEEDS_ONE_LM.replace("are removed in one", "are compared with the neurons of one")
        if not self._layers(subject):
            return "no MLP lies before the site that this SAE reads; name layers in studies.neuron_correlation.layers"
        return None

    def run(self, subject: Subject) -> Result:
        if reason := self.reason(subject):
            raise UserError(f"{self.name}: {reason}")
        assert subject.lm is not None
        widths = {layer: subject.lm.site_width(self._site(layer)) for layer in self._layers(subject)}
        units = self._units(subject)
        d_sae = subject.sae.d_sae
        chosen = np.arange(d_sae) if d_sae <= self.control else self._chosen(d_sae)
        best, shuffled = Best.none(d_sae), Best.none(len(chosen))
        counts, n = np.zeros(d_sae, np.int64), 0
        with inference(subject.sae):
            for block in self._blocks(widths, d_sae):
                sums = {layer: CrossSums(d_sae, widths[layer], subject.device) for layer in block}
                control = {layer: CrossSums(len(chosen), widths[layer], subject.device) for layer in block}
                counts, n = self._read(subject, units, sums, control, chosen)
                often = counts >= self.min_firings
                for layer in block:
                    best.take(layer, *sums[layer].best(often))
                    shuffled.take(layer, *control[layer].best(often[chosen]))
        return self._result(best, shuffled, counts, n, widths, self._guesses(subject))

    def _site(self, layer: int) -> str:
        return self.neurons.replace("{layer}", str(layer))

    def _layers(self, subject: Subject) -> Sequence[int]:
        if self.layers is not None:
            return self.layers
        assert subject.lm is not None
        assert subject.harvester is not None
        return range(max(layers_seen(site, subject.lm.n_layers) for site in subject.harvester.sites.read))

    def _guesses(self, subject: Subject) -> tuple[str, ...]:
        """Return what was taken for granted of where the SAE reads."""
        if self.layers is not None or subject.harvester is None or subject.lm is None:
            return ()
        found = [guess(site, subject.lm.n_layers) for site in subject.harvester.sites.read]
        return tuple(f"{one}; studies.neuron_correlation.layers names others" for one in found if one)

    def _units(self, subject: Subject) -> list[list[int]]:
        """Return whole units of windows, spread evenly: the same shapes give the same bits."""
        units = subject.units()
        if self.tokens is None:
            return units
        wanted = min(len(units), -(-self.tokens // UNIT_TOKENS))
        return [units[i * len(units) // wanted] for i in range(wanted)]

    def _chosen(self, d_sae: int) -> NDArray[np.int64]:
        order = Permutation(d_sae, derive_seed(self.seed, "studies", self.name, "control"))
        return np.sort(order[np.arange(self.control)]) if self.control else np.zeros(0, np.int64)

    def _blocks(self, widths: dict[int, int], d_sae: int) -> list[list[int]]:
        """Return the layers in blocks whose sums, and whose neurons in one unit, fit into memory."""
        blocks: list[list[int]] = []
        room = 0
        for layer, width in widths.items():
            if not blocks or width > room:
                blocks.append([])
                room = _SUMS // max(d_sae, UNIT_TOKENS)
            blocks[-1].append(layer)
            room -= width
        return blocks

    def _read(
        self,
        subject: Subject,
        units: Sequence[list[int]],
        sums: dict[int, CrossSums],
        control: dict[int, CrossSums],
        chosen: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], int]:
        """Add up the units; return (firings of each feature, tokens)."""
        layers = list(sums)
        what = f"neurons of layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"neurons of layer {layers[0]}"
        counts, n = np.zeros(subject.sae.d_sae, np.int64), 0
        for number, unit in enumerate(self._passes(subject, units, layers, what)):
            rows, features, values = unit.features.triples()
            counts += np.bincount(features.cpu().numpy(), minlength=len(counts))
            n += len(unit.x)
            shape = len(counts), len(unit.x)
            active = Active.of(rows, features, values, shape)
            dealt = self._dealt(rows, features, values, chosen, shape, number)
            for layer, neurons in zip(
                layers, unit.y.split([one.n_neurons for one in sums.values()], dim=1), strict=True
            ):
                neurons = neurons.double()
                sums[layer].add(active, neurons)
                control[layer].add(dealt, neurons)
        return counts, n

    def _passes(self, subject: Subject, units: Sequence[list[int]], layers: Sequence[int], what: str) -> Iterator[Pass]:
        """Yield each unit, read with the neurons as what is written: y [n, neurons], one layer after the other."""
        assert subject.lm is not None
        assert subject.harvester is not None
        old = subject.harvester
        sites = Sites(old.sites.read, tuple(self._site(layer) for layer in layers))
        with_neurons = replace(subject, harvester=Harvester(subject.lm, sites, old.windows, old.mask, old.micro_batch))
        for numbers in track(units, len(units), what, self.show_progress):
            yield read_unit(with_neurons, numbers)

    def _dealt(
        self,
        rows: Tensor,
        features: Tensor,
        values: Tensor,
        chosen: NDArray[np.int64],
        shape: tuple[int, int],
        unit: int,
    ) -> Active:
        """Return the chosen features of a unit, each token's dealt out to another."""
        rng = np.random.default_rng(derive_seed(self.seed, "studies", self.name, "tokens", unit))
        order = torch.from_numpy(rng.permutation(shape[1])).to(rows.device)
        place = torch.full((shape[0],), -1, dtype=torch.int64)
        place[torch.from_numpy(chosen)] = torch.arange(len(chosen))
        place = place.to(features.device)[features]
        mine = place >= 0
        return Active.of(order[rows[mine]], place[mine], values[mine], (len(chosen), shape[1]))

    def _result(
        self,
        best: Best,
        shuffled: Best,
        counts: NDArray[np.int64],
        n: int,
        widths: dict[int, int],
        guesses: tuple[str, ...],
    ) -> Result:
        there = np.flatnonzero(np.isfinite(best.r))
        found = np.abs(best.r[there])
        estimates = {"neuron_correlation_mean": self._mean(found)}
        for share in _SHARES:
            estimates[f"neuron_correlation_share_{share}"] = self._mean((found > share).astype(np.float64))
        chance = np.abs(shuffled.r[np.isfinite(shuffled.r)])
        if self.control:
            estimates["neuron_correlation_shuffled"] = self._mean(chance)
        order = there[np.lexsort((there, -found))]
        pairs: list[tuple[Cell, ...]] = [
            (int(i), int(best.layer[i]), int(best.neuron[i]), float(best.r[i]), int(counts[i]))
            for i in order[: self.shown]
        ]
        layers: list[tuple[Cell, ...]] = []
        for layer in widths:
            mine = np.abs(best.r[best.layer == layer])
            layers.append((layer, len(mine), float(mine.mean()) if len(mine) else None))
        tables = {
            "pairs": Table(COLUMNS, tuple(pairs), "Features and neurons that go together most, by |r|"),
            "layers": Table(("layer", "features", "mean"), tuple(layers), "Layers of the best neurons; mean |r|"),
        }
        note = (
            f"{len(there):,} of {len(best.r):,} features fire on at least {self.min_firings} of {n:,} tokens; "
            f"{sum(widths.values()):,} neurons of layers {', '.join(map(str, widths))}"
        )
        arrays = {"neuron_layer": best.layer, "neuron": best.neuron, "neuron_correlation": best.r.astype(np.float32)}
        return Result(estimates, tables, (note, *guesses), arrays=arrays)

    def _mean(self, values: Float[NDArray, "m"]) -> Estimate:
        return mean_estimate(values, self.name, self.seed, self.draws)

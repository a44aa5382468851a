"""Neurons of the language model's MLPs, the control of every claim about features: read over a store's text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from sae_lightning.activations import Harvester
from sae_lightning.core import Permutation, Sites, UserError, derive_seed
from sae_lightning.studies.autointerp.recording import Active
from sae_lightning.studies.autointerp.records import Unit
from sae_lightning.studies.layers_seen import layers_seen
from sae_lightning.studies.progress import track
from sae_lightning.studies.subject import UNIT_TOKENS, Subject, inference

# Activations kept of one pass of the text before the weak ones are dropped: 256 MiB in float32.
_KEPT = 1 << 26


@dataclass(frozen=True)
class Neurons:
    """Neurons of MLPs whose output the SAE's read site sees.

    site: hook name of a layer's neurons, ``{layer}`` in the place of its number. Of a gated MLP they are what its
    down-projection reads.
    """

    subject: Subject
    site: str = "blocks.{layer}.mlp.hook_post"

    def __post_init__(self) -> None:
        if "{layer}" not in self.site:
            raise UserError(f"neurons={self.site!r}: write {{layer}} where its number goes")
        if not self.subject.has_lm:
            raise UserError("n_neurons: neurons need the store's text, which can't be read again; set n_neurons=0")
        if not self.subject.has_one_lm:
            raise UserError("n_neurons: this SAE reads two language models; set n_neurons=0")

    @property
    def layers(self) -> range:
        """The layers they are in. Raises UserError where no MLP lies before the SAE."""
        assert self.subject.lm is not None
        assert self.subject.harvester is not None
        read = self.subject.harvester.sites.read
        seen = max(layers_seen(site, self.subject.lm.n_layers) for site in read)
        if not seen:
            raise UserError(f"n_neurons: no MLP lies before {', '.join(read)}; set n_neurons=0")
        return range(seen)

    def draw(self, n: int, seed: int) -> list[Unit]:
        """Return n neurons drawn evenly from all of those layers; all of them where there are no more."""
        assert self.subject.lm is not None
        units = [
            Unit("neuron", index, layer)
            for layer in self.layers
            for index in range(self.subject.lm.site_width(self._site(layer)))
        ]
        n = min(n, len(units))
        order = Permutation(len(units), derive_seed(seed, "autointerp", "neurons"))
        return sorted(units[i] for i in order[np.arange(n)]) if n else []

    def read(self, units: Sequence[Unit], share: float, show: bool = True) -> "NeuronFirings":
        """Read the subject's windows and keep each neuron's strongest activations: of ``share`` of the kept tokens.

        A neuron is hardly ever at rest: about half of its activations are above 0. A feature is active where it passes
        a threshold, so a neuron is, too: on as large a share of the tokens, where it is strongest and above 0.
        """
        firings: dict[Unit, Active] = {}
        n_tokens = self.n_tokens
        size = max(1, _KEPT // max(1, n_tokens))
        for first in range(0, len(units), size):
            block = list(units[first : first + size])
            kept, values = self._values(block, n_tokens, show)
            for unit, column in zip(block, values.T, strict=True):
                firings[unit] = strongest(column, kept, share)
        return NeuronFirings(firings)

    @property
    def n_tokens(self) -> int:
        """Tokens of the store that the subject's windows hold."""
        assert self.subject.harvester is not None
        windows = self.subject.harvester.windows
        return sum(int((windows.batch(numbers).token_index >= 0).sum()) for numbers in self.subject.units())

    def _site(self, layer: int) -> str:
        return self.site.replace("{layer}", str(layer))

    def _values(self, units: list[Unit], n_tokens: int, show: bool) -> tuple[NDArray[np.bool_], Float[NDArray, "n m"]]:
        """Return (which tokens the mask keeps, the activations of these neurons on all tokens)."""
        old = self.subject.harvester
        assert old is not None
        layers = sorted({unit.layer for unit in units})
        sites = Sites(old.sites.read, tuple(self._site(layer) for layer in layers))
        size = max(1, UNIT_TOKENS // self.subject.window_tokens)
        harvester = Harvester(old.lm, sites, old.windows, old.mask, size)
        begins = dict(zip(layers, np.cumsum([0, *harvester.widths_out])[:-1].tolist(), strict=True))
        columns = torch.tensor([begins[unit.layer] + unit.index for unit in units], device=harvester.device)
        kept, values, n = np.zeros(n_tokens, np.bool_), np.zeros((n_tokens, len(units)), np.float32), 0
        work = self.subject.units()
        with inference(self.subject.sae):
            for numbers in track(work, len(work), "neurons", show):
                batch, _, y, keep = harvester.full_with_targets(numbers)
                # The store's tokens are the windows' real ones, in their order.
                real = batch.token_index >= 0
                end = n + int(real.sum())
                values[n:end] = y[real.to(y.device)][:, columns].float().cpu().numpy()
                kept[n:end] = keep.cpu()[real].numpy()
                n = end
        return kept, values


@dataclass(frozen=True)
class NeuronFirings:
    """Where neurons count as active, see ``Neurons.read``."""

    by_unit: dict[Unit, Active]

    def of(self, unit: Unit) -> Active:
        return self.by_unit[unit]


def strongest(values: Float[NDArray, "n"], kept: NDArray[np.bool_], share: float) -> Active:
    """Return where a neuron counts as active, and how much: above 0 and strongest, on ``share`` of the kept tokens."""
    tokens, floor = np.flatnonzero(kept & (values > 0)), 0.0
    wanted = max(1, round(share * int(kept.sum())))
    if len(tokens) > wanted:
        # The strongest that does not count; of ties with it none does, unless all are equal.
        floor = float(np.partition(values[tokens], len(tokens) - wanted - 1)[len(tokens) - wanted - 1])
        above = tokens[values[tokens] > floor]
        tokens, floor = (above, floor) if len(above) else (tokens, 0.0)
    return Active(tokens.astype(np.int64), np.asarray(values[tokens], np.float32), floor)

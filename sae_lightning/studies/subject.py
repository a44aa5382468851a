"""What a study is asked about: an SAE, held-out data, and perhaps the language model it reads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sae_lightning.activations import Harvester
from sae_lightning.core import ActivationBatch
from sae_lightning.lm import FrozenLM
from sae_lightning.lm.sites import member_of
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.store import FeatureStore, Reader

if TYPE_CHECKING:
    from sae_lightning.activations.synthetic import PlantedModel

#: Tokens of one unit of work. A constant: figures must not depend on a batch size.
UNIT_TOKENS = 4096
#: What stands for a window where rows come without any: so many consecutive rows.
BLOCK_ROWS = 128
#: Why a study of next-token losses can't be asked.
NEEDS_LM = "needs a language model and held-out windows; choose an lm, not lm=none"
#: Why a study of which features fire where can't be asked.
NEEDS_STORE = "needs a feature store; ask it of one (python -m sae_lightning.analyze store=...)"
#: Why a study of a text of one's own can't be asked.
NEEDS_READER = "needs the language model that the SAE reads, to read a text with; give a reader"
#: Why a study that takes one feature after the other out of a language model can't be asked.
NEEDS_ONE_LM = "this SAE writes two language models, and its features are removed in one; choose another study"


@dataclass(frozen=True)
class Subject:
    """An SAE and the data to ask about.

    sae:       reads *raw* activations: an export that was loaded, or a trained one folded.
    lm:        the frozen language model; None where activations came from a file.
    harvester: turns window numbers into activations and the keep mask.
    windows:   numbers of held-out windows, in the harvester's ``Windows``; of blocks, in ``truth``.
    rows:      raw activations [n, d_in] (a transcoder's: an ActivationBatch with its targets), already masked. Taken
               in place of harvesting ``windows``; ``BLOCK_ROWS`` consecutive ones count as a window.
    truth:     synthetic data with known features, in place of a language model.
    store:     which features fire on which tokens; ``harvester`` and ``windows`` are then those it was made of.
    reader:    reads any text as the SAE's data were, for questions about texts of one's own.
    """

    sae: SparseAutoencoder
    lm: FrozenLM | None = None
    harvester: Harvester | None = None
    windows: Sequence[int] = ()
    rows: Tensor | ActivationBatch | None = None
    truth: "PlantedModel | None" = None
    store: FeatureStore | None = None
    reader: Reader | None = None

    @property
    def has_lm(self) -> bool:
        """Whether next-token losses can be measured."""
        return self.lm is not None and self.harvester is not None and len(self.windows) > 0

    @property
    def has_one_lm(self) -> bool:
        """Whether all of the SAE's sites lie in one language model."""
        return self.harvester is None or all(member_of(site)[0] is None for site in self.harvester.sites.write)

    @property
    def device(self) -> torch.device:
        return self.sae.W_dec.device

    @property
    def given(self) -> ActivationBatch | None:
        """The rows given, if any."""
        if self.rows is None or isinstance(self.rows, ActivationBatch):
            return self.rows
        return ActivationBatch(x=self.rows, y=self.rows, token_index=torch.arange(len(self.rows)))

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of the windows to ask about: ``windows``, or those that ``rows`` make."""
        return self.windows if self.given is None else range(-(-len(self.given) // BLOCK_ROWS))

    @property
    def window_tokens(self) -> int:
        """Positions of one window."""
        if self.given is not None:
            return BLOCK_ROWS
        if self.truth is not None:
            return self.truth.block_rows
        return self.harvester.windows.context_length if self.harvester is not None else 1

    def units(self) -> list[list[int]]:
        """Return the windows in units of work, ``UNIT_TOKENS`` each: a function of the windows alone."""
        size = max(1, UNIT_TOKENS // self.window_tokens)
        numbers = [int(number) for number in self.numbers]
        return [numbers[first : first + size] for first in range(0, len(numbers), size)]


def other_model(a: Subject, b: Subject) -> bool:
    """Tell whether the stores of two subjects say that they are of different language models."""
    said = [one.store.facts["lm"].get("sha256") for one in (a, b) if one.store is not None]
    return len(said) == 2 and None not in said and said[0] != said[1]


@contextmanager
def inference(sae: SparseAutoencoder) -> Iterator[None]:
    """Run the SAE as it is used after training (thresholds, no gradients), then put its mode back."""
    was_training = sae.training
    sae.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        sae.train(was_training)

"""Taking one feature out of a reconstruction, and running the language model without it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lightning.core import Features, TokenBatch
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.studies.passes import Text
from sae_lightning.studies.splice import Splice
from sae_lightning.studies.subject import Subject


def contribution(
    sae: SparseAutoencoder, features: Features, feature: int
) -> tuple[Int[Tensor, "m"], Float[Tensor, "m d_out"]]:
    """Return the rows in which ``feature`` is active and what it adds to their reconstruction: ``f_i d_i``.

    In raw units: divided by ``||d_i||`` under ``rescale_acts_by_decoder_norm``, times the row's standard deviation
    under ``layer_norm``.
    """
    row, index, value = features.triples()
    at = index == feature
    rows, values = row[at], value[at]
    direction = sae.W_dec[feature]
    if sae.rescale_acts_by_decoder_norm:
        direction = direction / sae.decoder_norms()[feature]
    added = values[:, None] * direction
    if features.input_std is not None:
        added = added * features.input_std[rows]
    return rows, added


def run_beside(
    subject: Subject, window: Text, base: Float[Tensor, "n d_out"], changed: Sequence[Float[Tensor, "n d_out"]]
) -> Float[Tensor, "1_plus_k p vocab"]:
    """Return the logits of one window with ``base`` in place of its kept activations, and with each of ``changed``.

    All in one batch, so that a change of nothing changes no bit.
    """
    assert subject.lm is not None
    assert subject.harvester is not None
    times = 1 + len(changed)
    tokens = TokenBatch(**{name: torch.cat([value] * times) for name, value in vars(window.tokens).items()})
    acts = torch.cat([window.acts] * times)
    targets = acts if window.targets is window.acts else torch.cat([window.targets] * times)
    text = Text(tokens, acts, targets, torch.cat([window.keep] * times))
    return Splice(subject.lm, subject.harvester.sites.write, text).run(torch.cat([base, *changed]))

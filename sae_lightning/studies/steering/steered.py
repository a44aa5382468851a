"""``with steered(lm, sae, {1234: clamp(8.0)}): ...``: every run of the language model inside is steered."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sae_lightning.activations import MaskPolicy
from sae_lightning.core import Sites, UserError
from sae_lightning.lm import FrozenLM
from sae_lightning.lm.standing import stand
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.store import FeatureStore, Reader
from sae_lightning.studies.steering.edits import FeatureEdit, resolve
from sae_lightning.studies.steering.steering import Positions, Steering


@contextmanager
def steered(
    lm: FrozenLM,
    sae: SparseAutoencoder,
    edits: Mapping[int, FeatureEdit],
    *,
    store: FeatureStore | None = None,
    keep_error: bool = True,
    positions: Positions = "all",
    sites: Sites | None = None,
    mask: MaskPolicy | None = None,
) -> Iterator[Steering]:
    """Steer every run of ``lm`` inside: ``run``, ``logits``, ``activations`` (as they are after the edits) and
    ``generate``.

    sae: reads raw activations (an export that was loaded, or a trained one folded). store: whose maxima strengths such
    as ``clamp("10x")`` are factors of. sites, mask: those in the SAE's metadata unless given; without a mask there all
    tokens count but the first position and special ones.
    positions: in a run of ``lm`` all tokens are the prompt's, counted from the window's first; see ``Steering``.

    Nested, the outer steering comes first and the inner one reads what it left. Edits that a run is given itself come
    before both. Other threads' runs are not steered. Nothing is hooked between runs, so that whatever ends the block,
    nothing of it stays.
    """
    steering = Steering(
        reader_of(lm, sae, sites, mask), resolve(edits, store), keep_error=keep_error, positions=positions
    )
    with stand(lm, steering):
        yield steering


def reader_of(
    lm: FrozenLM, sae: SparseAutoencoder, sites: Sites | None = None, mask: MaskPolicy | None = None
) -> Reader:
    """Return what reads texts for an SAE by its metadata. Raises UserError where that does not say its sites."""
    said = sae.metadata
    if sites is None:
        named = said.get("sites")
        if not named:
            raise UserError("the SAE does not say at which sites it reads; give sites=Sites(read=(...), write=(...))")
        sites = Sites(tuple(named["read"]), tuple(named["write"]))
    if mask is None:
        mask = MaskPolicy.from_dict(said["mask"]) if said.get("mask") else MaskPolicy(lm.special_ids, True, None)
    data = said.get("data") or {}
    length = data.get("context_length")
    return Reader(
        lm, sae, sites, mask, length if isinstance(length, int) else lm.n_ctx, 8, bool(data.get("prepend_bos"))
    )

"""From an SAE's origin to the text it is read on: language model, token file, sites, and whether they fit together."""

from dataclasses import dataclass
from typing import Any

from sae_lightning.activations import Harvester, MaskPolicy, calibrate
from sae_lightning.build.lm_check import check_lm, check_width
from sae_lightning.build.models import build_model
from sae_lightning.build.origin import Origin
from sae_lightning.build.recipe import lm_identity
from sae_lightning.build.text import build_store, enough_tokens
from sae_lightning.config import LMConfig, ReadsSAE
from sae_lightning.core import Sites
from sae_lightning.lm import FrozenLM
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.tokens import TokenStore, Windows, WindowSample


@dataclass(frozen=True)
class OpenCorpus:
    """What an SAE is read on.

    models: the settings that the language models were built from, on this device. enough: how much of the text was
    tokenised where ``data.max_tokens`` leaves that open.
    """

    lm: FrozenLM
    models: tuple[LMConfig, ...]
    identity: dict[str, Any]
    sites: Sites
    tokens: TokenStore
    seed: int
    enough: int


def open_corpus(
    config: ReadsSAE, sae: SparseAutoencoder, origin: Origin, path: str, device: str, wanted: int
) -> OpenCorpus:
    """Open the language model and the text of an SAE's origin. wanted: tokens that will be read, all splits together.

    Raises UserError for an SAE that was trained on another language model (unless ``any_lm``) or has other widths.
    """
    data, run = origin.data, origin.run
    assert origin.lm is not None
    assert origin.read is not None
    assert origin.write is not None
    lm, tuned = (one and one.model_copy(update={"device": device}) for one in (origin.lm, origin.tuned))
    assert lm is not None
    seed = run.stream_seed if run is not None else 0
    model = build_model(lm, tuned, seed)
    for site in (*origin.read, *origin.write):
        model.check_site(site)
    identity = lm_identity(model)
    if not config.any_lm:
        check_lm(sae.metadata.get("lm"), identity, path)
    where = f"{', '.join(origin.read)} of {identity['name']}"
    widths = [sum(model.site_width(site) for site in sites) for sites in (origin.read, origin.write)]
    check_width(sae, widths[0], widths[1], where)
    enough = enough_tokens(run) if run is not None and origin.own_data else 0
    enough = max(enough, 1 << 20, 1 << (wanted - 1).bit_length())
    models = (lm,) if tuned is None else (lm, tuned)
    tokens = build_store(data, model, enough)
    return OpenCorpus(model, models, identity, Sites(origin.read, origin.write), tokens, seed, enough)


def mask_of(
    sae: SparseAutoencoder, corpus: OpenCorpus, origin: Origin, windows: Windows | WindowSample, tokens: int, seed: int
) -> tuple[MaskPolicy, str]:
    """Return the SAE's own mask, or one fitted on these windows, and in words which it is."""
    data, saved = origin.data, sae.metadata.get("mask")
    if saved:
        return MaskPolicy.from_dict(saved), "the SAE"
    policy = MaskPolicy(corpus.lm.special_ids, data.mask_first_position, data.mask_norm_multiple)
    harvester = Harvester(corpus.lm, corpus.sites, windows, policy, data.micro_batch)
    fitted = calibrate(harvester, min(tokens, 16384), seed).mask
    assert fitted is not None
    return fitted, "fitted here"

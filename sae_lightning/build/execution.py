"""From config to how an SAE computes: the precision of the product that selects, and the size of its blocks."""

import logging

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.config import RunConfig
from sae_lightning.core import Ranks
from sae_lightning.core.processor import fast_bfloat16
from sae_lightning.losses import Objective
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.sae.choosing import ChoosingAutoencoder
from sae_lightning.sae.kernels import AboveEach, Execution, Selector
from sae_lightning.sae.selective import SelectiveAutoencoder
from sae_lightning.sae.thresholded import ThresholdedAutoencoder

logger = logging.getLogger(__name__)

#: ``trainer.encoder=auto`` takes the narrow product where at least this share of the features it selects is the same.
AGREEMENT = 0.99
#: ... and where d_sae is this many times k: below, scoring candidates again costs what the narrow product saves.
WORTH = 64
_ROWS = 512
_ACTIVE = 32


def set_execution(
    sae: SparseAutoencoder,
    objective: Objective,
    config: RunConfig,
    sample: Float[Tensor, "n d_in"] | None,
    product: str | None = None,
) -> None:
    """Say how ``sae`` computes. sample: normalised rows that ``auto`` tries both products on.

    product: what an earlier sitting of the run decided; a resumed run (``sample`` None) does as it did.
    """
    sae.execution = Execution(
        block_bytes=int(config.trainer.pre_acts_mb * 2**20),
        whole_pre_acts=any(term.reads_pre_acts for term in objective.terms.values()),
        ranks=(ranks := Ranks.present()),
        sharded=config.trainer.sharded,
    )
    wanted = config.trainer.encoder
    if wanted == "auto":
        # Tried by all, since a shard's forward pass needs the others; decided by one.
        wanted = ranks.told(_automatic(sae, sample)) if sample is not None else product
    sae.execution.product = None if wanted is None else getattr(torch, wanted)


def decided(sae: SparseAutoencoder) -> str | None:
    """Return the name of the dtype that the selecting product is computed in; None: that of weights or autocast."""
    return None if sae.execution.product is None else str(sae.execution.product).removeprefix("torch.")


def _automatic(sae: SparseAutoencoder, sample: Tensor) -> str | None:
    if not fast_bfloat16() or not isinstance(sae, ChoosingAutoencoder):
        return None
    if isinstance(sae, SelectiveAutoencoder) and sae.d_sae < WORTH * sae.k:
        return None
    share = agreement(sae, sample[:_ROWS])
    if share < AGREEMENT:
        logger.info("encoder products in float32: only %.1f %% of bfloat16's features are the same", 100 * share)
        return None
    logger.debug("encoder products in bfloat16: %.2f %% of their features are those of float32", 100 * share)
    return "bfloat16"


@torch.no_grad()
def agreement(sae: ChoosingAutoencoder, x: Float[Tensor, "n d_in"]) -> float:
    """Return the share of the features selected by exact products that bfloat16 ones with candidates select too.

    An SAE with thresholds is dense at its start, when nothing is selected: its bars are raised for the trial until
    ``_ACTIVE`` features a row exceed them.
    """
    before, mode = sae.execution, sae.training
    bars = None if isinstance(sae, SelectiveAutoencoder) else _raised(sae, x)
    chosen = []
    try:
        sae.train()
        for product in (torch.float32, torch.bfloat16):
            sae.execution = Execution(product, before.block_bytes)
            rows = sae._rows(x)
            if isinstance(sae, ThresholdedAutoencoder):
                assert bars is not None
                selector: Selector = AboveEach(bars, sae._slack(rows), sae.d_sae)
            else:
                assert isinstance(sae, SelectiveAutoencoder)
                selector = sae.selector(len(x))
            _, pattern, _ = sae._choose(rows, selector)
            chosen.append(pattern.rows * sae.d_sae + pattern.indices)
    finally:
        sae.execution = before
        sae.train(mode)
    exact, narrow = chosen
    return float(torch.isin(exact, narrow).float().mean()) if len(exact) else 1.0


def _raised(sae: ChoosingAutoencoder, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "d_sae"]:
    """Return one bar for all features that about ``_ACTIVE`` of them exceed in each row."""
    best = [z.topk(min(_ACTIVE, z.shape[1]), dim=1).values for z in sae._blocks(x)]
    least = torch.cat(best, 1).topk(min(_ACTIVE, sae.width), dim=1).values[:, -1]
    return torch.full_like(sae.b_enc, float(least.mean()))

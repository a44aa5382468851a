"""A small random SAE on the tiny language model and made-up texts, to be asked about."""

from pathlib import Path

import torch

from sae_lightning.activations import Harvester, MaskPolicy
from sae_lightning.core import Sites, torch_generator
from sae_lightning.lm import FrozenLM
from sae_lightning.sae.topk import TopKSAE
from sae_lightning.studies import Subject
from sae_lightning.tokens import ListSource, Windows, write_tokens
from tests.store.planted import made_up_texts

SITE = "blocks.1.hook_resid_post"


def tiny_subject(
    folder: Path,
    *,
    site: str = SITE,
    d_sae: int = 48,
    k: int = 5,
    n_texts: int = 60,
    context_length: int = 32,
    mask: MaskPolicy | None = None,
    n_windows: int | None = None,
    seed: int = 0,
) -> Subject:
    """Return a subject with an LM, windows and a mask, and without a store."""
    lm = FrozenLM.load("tiny", dtype="float32", seed=3)
    tokens = write_tokens(ListSource(made_up_texts(n_texts, seed)), lm.tokenizer, folder / "t.bin", vocab_size=257)
    windows = Windows(tokens, "all", context_length=context_length, separator_id=lm.separator_id)
    mask = mask or MaskPolicy(special_ids=lm.special_ids, first_position=True, norm_multiple=None)
    harvester = Harvester(lm, Sites((site,), (site,)), windows, mask, micro_batch=4)
    sae = TopKSAE(harvester.d_in, d_sae, k=k)
    g = torch_generator(seed, "tests", "tiny_subject")
    for p in sae.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.2
    return Subject(sae, lm, harvester, range(len(windows) if n_windows is None else n_windows))

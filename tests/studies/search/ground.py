"""The tiny language model with an SAE whose features are known: each letter's, dense ones and rare ones."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_lightning.activations import MaskPolicy
from sae_lightning.core import Sites, torch_generator
from sae_lightning.lm import FrozenLM
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.sae.jumprelu import JumpReLUSAE
from sae_lightning.sae.topk import TopKSAE
from sae_lightning.store import Reader
from sae_lightning.studies import Result, Subject
from tests.store.planted import planted_store

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
DENSE, RARE = 24, 24
D = 32


def tiny() -> FrozenLM:
    return FrozenLM.load("tiny", dtype="float32", seed=3)


def letter_sae(lm: FrozenLM) -> SparseAutoencoder:
    """Return an SAE of token embeddings: feature i < 52 fires on LETTERS[i] alone, then dense and rare ones follow.

    Dense features are active on half of the tokens or more, with activations as large as the letters'.
    """
    table = lm.activations(torch.arange(256)[:, None], ["hook_embed"])["hook_embed"][:, 0].double()
    g = torch_generator(1, "tests", "search")
    n = len(LETTERS) + DENSE + RARE
    sae = JumpReLUSAE(D, n, D, subtract_b_dec=False)
    mine = table[[ord(letter) for letter in LETTERS]]
    unit = mine / mine.norm(dim=1, keepdim=True)
    others = torch.randn(DENSE + RARE, D, generator=g).double()
    directions = torch.cat([unit, others / others.norm(dim=1, keepdim=True)])
    scores = table[[ord(letter) for letter in LETTERS]] @ directions.T
    theta = torch.empty(n).double()
    for i in range(n):
        if i < len(LETTERS):  # between the letter and whatever comes nearest to it
            rest = torch.cat([scores[:i, i], scores[i + 1 :, i]]).max()
            assert scores[i, i] > rest
            theta[i] = (scores[i, i] + rest.clamp(min=0)) / 2
        else:
            share = 0.5 if i < len(LETTERS) + DENSE else 0.96
            theta[i] = scores[:, i].quantile(share - (0.4 if i % 2 and share == 0.5 else 0.0))
    shift = torch.where(theta > 0, 0.0, 1e-3 - theta)  # a threshold is above 0
    with torch.no_grad():
        sae.W_enc.copy_(directions.T.float())
        sae.W_dec.copy_(directions.float())
        sae.b_enc.copy_(shift.float())
        sae.log_theta.copy_((theta + shift).log())
    return sae.eval()


def letter_ground(folder: Path, n_texts: int = 120) -> Subject:
    """Return that SAE with a store of random letters, and what reads more."""
    lm = tiny()
    sae = letter_sae(lm)
    rng = np.random.default_rng(0)
    texts = [word(rng, int(rng.integers(5, 40))) for _ in range(n_texts)]
    sites = Sites(("hook_embed",), ("hook_embed",))
    reader = Reader(lm, sae, sites, MaskPolicy((256,), True, None), 32, 8)
    ids = np.frombuffer("".join(texts).encode(), np.uint8).astype(np.int64)
    with torch.no_grad():
        rows = lm.activations(torch.from_numpy(ids.copy())[:, None], ["hook_embed"])["hook_embed"][:, 0]
        dense = sae.encode(rows).dense().numpy()
    store = planted_store(folder, texts=texts, d_sae=sae.d_sae, masked=0.0, dense=lambda n: dense[:n]).store
    return Subject(sae, lm, store=store, reader=reader)


def word(rng: np.random.Generator, length: int, without: str = "", holding: str = "") -> str:
    """Return random letters, none of them ``without``, with ``holding`` somewhere among them."""
    letters = [letter for letter in LETTERS if letter not in without]
    out = list(rng.choice(letters, length))
    if holding:
        out[int(rng.integers(length))] = holding
    return "".join(out)


def random_sae(d_in: int = D, d_out: int = D, **options: Any) -> SparseAutoencoder:
    sae = TopKSAE(d_in, 40, d_out, k=4, **options)
    g = torch_generator(5, "tests", "search")
    for p in sae.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.3
    return sae.eval()


KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]] = {
    "sae": (("blocks.0.hook_resid_post",), ("blocks.0.hook_resid_post",), {}),
    "layer_norm": (("blocks.0.hook_resid_post",), ("blocks.0.hook_resid_post",), {"layer_norm": True}),
    "rescaled": (
        ("blocks.1.hook_resid_post",),
        ("blocks.1.hook_resid_post",),
        {"rescale_acts_by_decoder_norm": True},
    ),
    "transcoder": (("blocks.1.mlp.hook_in",), ("blocks.1.hook_mlp_out",), {"skip": True, "subtract_b_dec": False}),
    "crosscoder": (
        ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post"),
        ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post"),
        {"d_in": 2 * D, "d_out": 2 * D, "site_widths": (D, D), "subtract_b_dec": False},
    ),
}


def kind_ground(kind: str) -> Subject:
    """Return an SAE of a kind with random weights, and what reads texts for it."""
    read, write, options = KINDS[kind]
    lm = FrozenLM.load("tiny", dtype="float32", seed=3)
    sae = random_sae(**options)
    mask = MaskPolicy((ord("!"), 256), True, None)
    return Subject(sae, lm, reader=Reader(lm, sae, Sites(read, write), mask, 32, 8))


def counts(values: NDArray, a: float) -> int:
    return sum(1 for value in values.tolist() if abs(value) >= abs(a))


def rows_of(result: Result) -> list[Any]:
    """Return the rows of what a search found."""
    return list(result.tables["features"].rows)

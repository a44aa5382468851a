"""One vector a text: what an SAE's features say over its tokens, and the activations themselves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.activations.harvest import read_windows
from sae_lightning.activations.mask import real_tokens
from sae_lightning.core import TokenBatch
from sae_lightning.studies.progress import track
from sae_lightning.studies.subject import UNIT_TOKENS, Subject, inference
from sae_lightning.tokens import WindowSample

if TYPE_CHECKING:
    from scipy.sparse import csc_array

Pool = Literal["mean", "max"]

# Texts are padded to a multiple of this length, and read with others of theirs.
_LENGTHS = 16
# No more of a long text is tokenised; far more than any tokenizer packs into one.
_CHARACTERS_A_TOKEN = 32


@dataclass(frozen=True)
class TextVectors:
    """features: [n, F] scipy csc, float64. acts: mean of the activations the SAE reads, float64. tokens: kept ones.

    A text of which the mask keeps no token has zeros and ``tokens`` 0.
    """

    features: "csc_array"
    acts: Float[NDArray, "n d_in"]
    tokens: Int[NDArray, "n"]


def read_texts(
    subject: Subject, texts: Sequence[str], *, max_tokens: int, pool: Pool = "mean", show_progress: bool = True
) -> TextVectors:
    """Read each text by itself, from its first token, through the language model and the SAE.

    pool: ``mean`` or ``max`` of each feature over the tokens that the SAE's mask keeps (a feature that is off counts
    as 0). max_tokens: longer texts are cut; shorter ones are padded on the right, which a causal model can't see. Texts
    begin as windows do: with BOS where the harvester's windows do, else without.
    """
    from scipy.sparse import csc_array

    assert subject.harvester is not None
    ids = _tokenise(subject, texts, max_tokens)
    acts = torch.zeros(len(texts), subject.sae.d_in, dtype=torch.float64)
    kept = np.zeros(len(texts), np.int64)
    entries: list[tuple[NDArray, NDArray, NDArray]] = []
    batches = list(_batches(ids))
    with inference(subject.sae):
        for chosen in track(batches, len(batches), f"{len(texts):,} labelled texts", show_progress):
            x, row_text = _rows(subject, chosen, [ids[i] for i in chosen])
            kept += np.bincount(row_text, minlength=len(texts))
            acts.index_add_(0, torch.from_numpy(row_text), x.double().cpu())
            rows, feature, value = (t.cpu().numpy() for t in subject.sae.encode(x).triples())
            entries.append(_pooled(row_text[rows], feature, value.astype(np.float64), pool))
    text, feature, value = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    n = np.maximum(kept, 1)
    if pool == "mean":
        value = value / n[text]
    shape = (len(texts), subject.sae.d_sae)
    return TextVectors(csc_array((value, (text, feature)), shape=shape), acts.numpy() / n[:, None], kept)


def _tokenise(subject: Subject, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    assert subject.lm is not None
    assert subject.harvester is not None
    bos = _bos(subject)
    room = min(max_tokens, subject.lm.n_ctx) - (bos is not None)
    beginnings = [text[: _CHARACTERS_A_TOKEN * max_tokens] for text in texts]
    ids = subject.lm.tokenizer(beginnings, add_special_tokens=False)["input_ids"]
    return [([] if bos is None else [bos]) + list(one[:room]) for one in ids]  # pyright: ignore[reportIndexIssue]


def _bos(subject: Subject) -> int | None:
    """The id that the harvester's windows begin with."""
    assert subject.harvester is not None
    windows = subject.harvester.windows
    return (windows.base if isinstance(windows, WindowSample) else windows).bos_id


def _batches(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield numbers of texts of like length, about a unit of tokens at a time."""
    lengths = [-(-len(one) // _LENGTHS) * _LENGTHS for one in ids]
    order = sorted((i for i in range(len(ids)) if ids[i]), key=lambda i: (lengths[i], i))
    first = 0
    while first < len(order):
        length = lengths[order[first]]
        last = first
        while last < len(order) and lengths[order[last]] == length and (last - first) * length < UNIT_TOKENS:
            last += 1
        yield order[first:last]
        first = last


def _rows(
    subject: Subject, numbers: Sequence[int], ids: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, "n d_in"], Int[NDArray, "n"]]:
    """Return the kept rows of these texts, and the text of each."""
    lm, harvester = subject.lm, subject.harvester
    assert lm is not None
    assert harvester is not None
    length = -(-max(map(len, ids)) // _LENGTHS) * _LENGTHS
    length = min(length, lm.n_ctx)
    tokens = torch.zeros(len(ids), length, dtype=torch.int64)
    there = torch.zeros(len(ids), length, dtype=torch.bool)
    for row, one in enumerate(ids):
        tokens[row, : len(one)] = torch.tensor(one)
        there[row, : len(one)] = True
    index = torch.where(there, torch.arange(length), -1)
    if _bos(subject) is not None:
        index[:, 0] = -1
    nothing = torch.zeros(len(ids), dtype=torch.int64)
    batch = TokenBatch(tokens, there, index, nothing, nothing)
    read = read_windows(lm, tokens, harvester.sites.read, len(ids))
    acts = torch.cat([read[site] for site in harvester.sites.read], dim=-1)
    keep = real_tokens(batch).to(acts.device) if harvester.mask is None else harvester.mask.keep(batch, acts)
    of = torch.tensor(numbers)[:, None].expand(-1, length)[keep.cpu()]
    return acts[keep].to(subject.device, torch.float32), of.numpy()


def _pooled(text: NDArray, feature: NDArray, value: NDArray, pool: Pool) -> tuple[NDArray, NDArray, NDArray]:
    """Return one entry a (text, feature): the sum of its values, or the largest."""
    if not len(value):
        return text, feature, value
    order = np.lexsort((feature, text))
    text, feature, value = text[order], feature[order], value[order]
    first = np.flatnonzero(np.append(True, (np.diff(text) != 0) | (np.diff(feature) != 0)))
    reduce = np.add.reduceat if pool == "mean" else np.maximum.reduceat
    return text[first], feature[first], reduce(value, first)

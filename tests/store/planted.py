"""A small store made by the real writer: made-up texts under the byte tokenizer, random features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_lightning.core import Features, TokenBatch
from sae_lightning.store import Corpus, FeatureStore, Plan, build_store
from sae_lightning.tokens import Document, ListSource, TextSource, Windows, byte_tokenizer, write_tokens

WORDS = ["tree", "river", "Zürich", "cloud", "日本", "garden", "naïve", "seven", "green", "\U0001f600", "slow"]
#: Text that a page must show as text.
HOSTILE = (
    "<script>alert(1)</script> </script><img src=x onerror=alert(2)> & \"quotes\" 'single' \u2028 line \u2029 par "
    "\x00 \x07 \x1b[31m \u202e right to left \ud800 lone \r\n tab\t`${1}` <!-- --> ]]>"
)


class ListWithMeta(TextSource):
    """Texts with something known of each."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.n_documents = len(self.texts)

    def documents(self, start: int = 0):
        for number, text in enumerate(self.texts[start:], start):
            yield Document(text, {"title": f"Text <b>{number}</b>", "link": f"https://example.org/{number}"})

    def identity(self) -> str:
        return ListSource(self.texts).identity()


def made_up_texts(n: int = 24, seed: int = 0) -> list[str]:
    """Return texts of a few words each, with characters of one to four bytes."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=int(rng.integers(3, 16)))) + f" {i}." for i in range(n)]


@dataclass(frozen=True)
class Planted:
    """A store, and what it was made of: dense [n_tokens, d_sae], kept [n_tokens], texts."""

    store: FeatureStore
    dense: NDArray[np.float32]
    kept: NDArray[np.bool_]
    texts: list[str]


def made_up_features(n_tokens: int, d_sae: int, density: float, seed: int) -> NDArray[np.float32]:
    """Return [n_tokens, d_sae]: many features are rare, feature 0 is dense, feature 1 dead; some values are equal."""
    rng = np.random.default_rng(seed)
    share = density * 2 * rng.random(d_sae)
    share[0], share[1] = 0.6, 0.0
    active = rng.random((n_tokens, d_sae)) < share
    return (active * np.round(0.1 + 3 * rng.random((n_tokens, d_sae)), 1)).astype(np.float32)


def planted_store(
    folder: Path,
    *,
    texts: Sequence[str] | None = None,
    d_sae: int = 12,
    density: float = 0.1,
    context_length: int = 16,
    unit: int = 3,
    seed: int = 0,
    masked: float = 0.1,
    dense: Callable[[int], NDArray[np.float32]] | None = None,
    facts: dict[str, Any] | None = None,
    name: str = "store",
    wrap: Callable[[Any], Any] = lambda encode: encode,
    show: bool = False,
    journal_seconds: float = 5.0,
    overwrite: bool = False,
) -> Planted:
    """Build a store of these texts with random features. dense: gives the features [n, d_sae] for n tokens instead.

    wrap: changes the function that reads windows (to count its calls, or to fail).
    """
    texts = made_up_texts(seed=seed) if texts is None else list(texts)
    source = ListSource(texts)
    tokens = write_tokens(source, byte_tokenizer(), folder / "tokens" / source.identity() / "t.bin", vocab_size=257)
    windows = Windows(tokens, "all", context_length=context_length, separator_id=256)
    index = np.concatenate([windows.batch([i]).token_index.numpy().reshape(-1) for i in range(len(windows))])
    index = index[index >= 0]
    values = made_up_features(len(index), d_sae, density, seed) if dense is None else dense(len(index))
    kept = np.random.default_rng(seed + 1).random(len(index)) >= masked
    values = values * kept[:, None]
    number_of = {int(token): number for number, token in enumerate(index)}

    def encode(numbers: list[int]) -> tuple[TokenBatch, torch.Tensor, Features]:
        batch = windows.batch(numbers)
        real = (batch.token_index >= 0).numpy()
        mine = np.array([number_of[int(i)] for i in batch.token_index.numpy()[real]], np.int64)
        keep = real.copy()
        keep[real] = kept[mine]
        return batch, torch.from_numpy(keep), Features(torch.from_numpy(values[mine[kept[mine]]]), None, None, d_sae)

    documents = ListWithMeta(texts).documents
    said = {"sae": {"name": "planted", "d_sae": d_sae, "sha256": "0", "path": "nowhere"}, **(facts or {})}
    plan = Plan(
        corpus=Corpus(windows, len(windows), byte_tokenizer, documents),
        encode=wrap(encode),
        d_sae=d_sae,
        vocab_size=257,
        unit=unit,
        key={"texts": windows.identity(), "d_sae": d_sae, "seed": seed, "density": density, "masked": masked},
        facts={
            "lm": {"name": "tiny", "load": []},
            "sites": {"read": ["blocks.1.hook_resid_post"], "write": ["blocks.1.hook_resid_post"]},
            "mask": None,
            "data": {"source": "made up", "split": "all", "context_length": context_length},
            **said,
        },
    )
    store = build_store(folder / name, plan, overwrite=overwrite, show=show, journal_seconds=journal_seconds)
    return Planted(store, values, kept, texts)

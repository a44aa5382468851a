"""A cache of random vectors, as large as asked for, without a language model."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sae_lightning.activations.cache import ActivationCache, CacheRequest, ensure
from sae_lightning.tokens import ListSource, Windows, WindowSample, byte_tokenizer, write_tokens

SITE = "blocks.0.hook_resid_post"


class NoiseLM:
    """Gives windows of bfloat16 noise of width ``d``: all that ``ensure`` asks of a language model."""

    name, vocab_size, device, dtype = "noise", 257, torch.device("cpu"), torch.bfloat16

    def __init__(self, d: int) -> None:
        self.d = d
        self._noise = torch.randn(1 << 15, d, generator=torch.Generator().manual_seed(0)).to(self.dtype)
        self._calls = 0

    def identity(self) -> dict[str, str]:
        weights = hashlib.sha256(b"%d" % self.d).hexdigest()
        return {"name": self.name, "revision": "", "sha256": weights, "tokenizer_hash": ""}

    def site_width(self, site: str) -> int:
        return self.d

    def activations(self, tokens: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
        self._calls += 1
        n = tokens.numel()
        first = self._calls * 7919 % (len(self._noise) - n)
        x = self._noise[first : first + n].view(*tokens.shape, self.d)
        return dict.fromkeys(sites, x)


def noise_cache(
    folder: Path, gigabytes: float, *, d: int = 576, context: int = 128, shard_mb: int = 128
) -> tuple[ActivationCache, WindowSample]:
    """Return a cache of about ``gigabytes`` of vectors and the windows it holds."""
    n_windows = int(gigabytes * 1e9 / (d * 2 * context))
    rng = np.random.default_rng(0)
    words = np.frombuffer(rng.bytes(1 << 20), np.uint8) % 26 + 97
    text = words.tobytes().decode()
    documents = -(-n_windows * (context + 1) // 60_000)
    source = ListSource([text[i % 900_000 : i % 900_000 + 60_000] for i in range(0, documents * 811, 811)])
    store = write_tokens(source, byte_tokenizer(), folder / "tokens.bin", vocab_size=257)
    windows = WindowSample(Windows(store, "all", context_length=context, separator_id=256), n_windows)
    request = CacheRequest(windows, (SITE,))
    (caches,) = ensure(NoiseLM(d), [request], root=folder, shard_bytes=shard_mb << 20)  # pyright: ignore[reportArgumentType]
    return caches[SITE], windows

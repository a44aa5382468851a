"""What the tests of the tokens room share: a cache of their own and token files made of plain lists."""

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_lightning.tokens import TokenStore, byte_tokenizer

MakeStore = Callable[..., TokenStore]
SIDECARS = ("", ".json", ".offsets.npy", ".hashes.npy")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return byte_tokenizer()


def some_texts(n: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abc é漢\n", k=draw.randrange(60))) for _ in range(n)]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, so that nothing is found by luck and nothing is left behind."""
    monkeypatch.setenv("SAE_LIGHTNING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make_store(tmp_path: Path, own_cache: Path) -> MakeStore:
    """Write documents (lists of ids) into a raw token file of its own and open it."""
    numbers = itertools.count()

    def make(
        documents: Sequence[Sequence[int]], dtype: str = "uint16", separator: int = 65535, ended: bool = True
    ) -> TokenStore:
        ids = [i for document in documents for i in (*document, separator)]
        path = tmp_path / f"store{next(numbers)}.bin"
        np.array(ids if ended else ids[:-1], dtype=f"<{dtype[0]}{np.dtype(dtype).itemsize}").tofile(path)
        # Tests give the dtype as a plain string, the signature lists the two that there are.
        return TokenStore.open(path, dtype=dtype, separator=separator)  # type: ignore[arg-type]

    return make

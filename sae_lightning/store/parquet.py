"""A store as parquet tables, for whatever reads those."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_lightning.core.files import atomic_path
from sae_lightning.core.progress import progress

if TYPE_CHECKING:
    from sae_lightning.store.feature_store import FeatureStore

_TOKENS = 1 << 17


def write_parquet(store: "FeatureStore", folder: Path) -> Path:
    """Write three tables and return their folder; memory does not grow with the store.

    tokens.parquet:      token, token_id, text, position, kept, piece (exact source characters)
    activations.parquet: token, feature, value; by token, then feature
    texts.parquet:       text, document, first_token, content, meta (a JSON object)
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(name: str, schema: Any, tables: Any, total: int) -> None:
        with (
            atomic_path(folder / f"{name}.parquet") as path,
            pq.ParquetWriter(path, schema, compression="zstd") as file,
            progress(f"{name}.parquet", total) as advance,
        ):
            for n, table in tables:
                file.write_table(pa.table(table, schema=schema))
                advance(n)

    folder.mkdir(parents=True, exist_ok=True)
    token = [("token", pa.int64()), ("token_id", pa.int64()), ("text", pa.int32()), ("position", pa.int32())]
    write("tokens", pa.schema([*token, ("kept", pa.bool_()), ("piece", pa.string())]), _tokens(store), store.n_tokens)
    pairs = pa.schema([("token", pa.int64()), ("feature", pa.int32()), ("value", pa.float32())])
    write("activations", pairs, _pairs(store), store.n_tokens)
    texts = [("text", pa.int32()), ("document", pa.int64()), ("first_token", pa.int64())]
    write("texts", pa.schema([*texts, ("content", pa.string()), ("meta", pa.string())]), _texts(store), store.n_texts)
    return folder


def _stretches(n: int, size: int):
    return ((first, min(first + size, n)) for first in range(0, n, size))


def _tokens(store: "FeatureStore"):
    for first, last in _stretches(store.n_tokens, _TOKENS):
        yield (
            last - first,
            {
                "token": np.arange(first, last),
                "token_id": store.token_ids[first:last].astype(np.int64),
                "text": store.text_index[first:last],
                "position": store.position[first:last],
                "kept": store.kept[first:last],
                "piece": store.pieces(first, last),
            },
        )


def _pairs(store: "FeatureStore"):
    for first, last in _stretches(store.n_tokens, _TOKENS):
        offsets = np.asarray(store.csr.offsets[first : last + 1], np.int64)
        part = slice(int(offsets[0]), int(offsets[-1]))
        yield (
            last - first,
            {
                "token": np.repeat(np.arange(first, last), np.diff(offsets)),
                "feature": store.csr.indices[part].astype(np.int32),
                "value": store.csr.values[part],
            },
        )


def _texts(store: "FeatureStore"):
    import json

    for text in range(store.n_texts):
        yield (
            1,
            {
                "text": np.array([text], np.int32),
                "document": np.array([store.document[text]]),
                "first_token": np.array([store.text_starts[text]]),
                "content": [store.text(text)],
                "meta": [json.dumps(store.meta(text))],
            },
        )

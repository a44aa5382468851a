"""How fast data come: rows from files and from the activation cache, token windows, tokenising; and what others do.

    python -m experiments.benchmarks.data_loading --peers-python PEERS/bin/python --out outputs/bench/cpu

All from warm files, shuffled where training shuffles, as float32 batches of 2,048 rows; rows a second have to be well
above the activations a second of a step. Others: torch's DataLoader with a random sampler on the same file, sae-lens'
mixing buffer on rows that are in memory already, and tokenising and packing by ``datasets.map``. Writes
data_loading.jsonl and data_loading.md.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from experiments.benchmarks.machine import describe
from experiments.benchmarks.process import run_json
from experiments.benchmarks.results import Results, markdown
from experiments.benchmarks.table import turned

if TYPE_CHECKING:
    from sae_lightning.tokens import TokenStore

KEY = ("where", "what", "rows", "d_in", "documents", "round")
BATCH = 2048
CONTEXT = 128
PEER = "sae-lens mixing buffer, rows in memory"


def _file(folder: Path, a: Any) -> Path:
    path = folder / "rows.npy"
    np.save(path, np.random.default_rng(0).standard_normal((a.rows, a.d_in), dtype=np.float32).astype(np.float16))
    return path


def _drain(batches: Iterator[Any], n: int) -> float:
    next(batches)
    begun = time.perf_counter()
    for _ in range(n):
        next(batches)
    return time.perf_counter() - begun


def rows_of_file(folder: Path, a: Any) -> dict[str, float]:
    """Shuffled rows of a float16 .npy through FileSource."""
    from sae_lightning.activations import FileSource

    source = FileSource(_file(folder, a), BATCH)
    n = a.rows // BATCH
    seconds = _drain((batch.x for batch in source), n)
    return {"rows_per_s": n * BATCH / seconds, "gb_per_s": n * BATCH * a.d_in * 2 / seconds / 1e9}


def rows_by_dataloader(folder: Path, a: Any) -> dict[str, float]:
    """The same file through torch's DataLoader: a map dataset that gives a batch of rows by a random sampler."""
    data = np.load(_file(folder, a), mmap_mode="r")

    class Rows(torch.utils.data.Dataset[torch.Tensor]):
        def __getitem__(self, number: int) -> torch.Tensor:
            return torch.from_numpy(data[number].astype(np.float32))

        def __len__(self) -> int:
            return len(data)

    def endless() -> Iterator[Any]:
        while True:
            yield from torch.utils.data.DataLoader(Rows(), batch_size=BATCH, shuffle=True, drop_last=True)

    n = max(1, a.rows // BATCH // 4)
    seconds = _drain(endless(), n)
    return {"rows_per_s": n * BATCH / seconds, "gb_per_s": n * BATCH * a.d_in * 2 / seconds / 1e9}


def rows_of_cache(folder: Path, a: Any) -> dict[str, float]:
    """Shuffled rows of a noise cache (float16 vectors on disk) through CachedSource."""
    from experiments.benchmarks.cache_reader.bench import shuffled
    from experiments.benchmarks.cache_reader.fake import noise_cache

    cache, windows = noise_cache(folder, a.rows * a.d_in * 2 / 1e9)
    rate = shuffled(cache, windows, min(65_536, a.rows // 4))
    return {"rows_per_s": rate / (cache.d * cache.dtype.itemsize), "gb_per_s": rate / 1e9}


def _noise_tokens(folder: Path, n: int) -> "TokenStore":
    from sae_lightning.tokens import ListSource, byte_tokenizer, write_tokens

    words = np.random.default_rng(0).integers(97, 123, n, dtype=np.uint8).tobytes().decode()
    documents = [words[i : i + 50_000] for i in range(0, n, 50_000)]
    return write_tokens(ListSource(documents), byte_tokenizer(), folder / "tokens.bin", vocab_size=257)


def token_windows(folder: Path, a: Any) -> dict[str, float]:
    """Token windows of 128 in shuffled order, 32 at a time, with masks and positions."""
    from sae_lightning.tokens import EpochOrder, Windows

    windows = Windows(_noise_tokens(folder, 4 * a.rows), "all", context_length=CONTEXT, separator_id=256)
    order, n = EpochOrder(len(windows), 0), len(windows) // 32
    seconds = _drain((windows.batch(order.take(np.arange(32 * i, 32 * i + 32))) for i in itertools.count()), n - 1)
    return {"rows_per_s": (n - 1) * 32 * CONTEXT / seconds}


def _news(a: Any) -> tuple[list[str], Any, int]:
    from sae_lightning.lm import load_tokenizer
    from sae_lightning.tokens import NewsSource

    texts = [document.text for document in itertools.islice(NewsSource().documents(), a.documents)]
    return texts, *load_tokenizer("smollm2")


def tokenising(folder: Path, a: Any) -> dict[str, float]:
    """News through SmolLM2's tokenizer into a checked file of ids with documents marked."""
    from sae_lightning.tokens import ListSource, write_tokens

    texts, tokenizer, vocab_size = _news(a)
    tokenizer(texts[0])
    begun = time.perf_counter()
    store = write_tokens(ListSource(texts), tokenizer, folder / "tokens.bin", vocab_size=vocab_size)
    return {"rows_per_s": int(store.starts[-1]) / (time.perf_counter() - begun)}


def tokenising_by_map(folder: Path, a: Any) -> dict[str, float]:
    """The same text by ``datasets.map``: tokenised in batches of 1,000, then joined and cut into windows."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    texts, tokenizer, _ = _news(a)
    tokenizer(texts[0])
    data = Dataset.from_dict({"text": texts})

    def cut(rows: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        ids = list(itertools.chain.from_iterable([*one, 0] for one in rows["input_ids"]))
        return {"input_ids": [ids[i : i + CONTEXT] for i in range(0, len(ids) - CONTEXT + 1, CONTEXT)]}

    begun = time.perf_counter()
    encoded = data.map(
        lambda rows: {"input_ids": tokenizer(rows["text"])["input_ids"]}, batched=True, remove_columns=["text"]
    )
    windows = encoded.map(cut, batched=True)
    return {"rows_per_s": len(windows) * CONTEXT / (time.perf_counter() - begun)}


PARTS: dict[str, Callable[[Path, Any], dict[str, float]]] = {
    "rows of a file": rows_of_file,
    "torch DataLoader, rows of a file": rows_by_dataloader,
    "rows of the activation cache": rows_of_cache,
    "token windows": token_windows,
    "tokenising and packing": tokenising,
    "datasets.map, tokenising and packing": tokenising_by_map,
}


def render(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the page: a table for each machine and size."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(tuple(line[key] for key in ("where", "rows", "d_in", "documents")), []).append(line)
    parts = []
    for (where, n, d_in, documents), members in groups.items():
        rows: list[list[object]] = []
        for what in dict.fromkeys(line["what"] for line in members):
            good = [line for line in members if line["what"] == what and "rows_per_s" in line]
            if not good:
                said = next(line["error"] for line in members if line["what"] == what)
                rows.append([what, None, f"does not run: {said[:100]}", None])
                continue
            rates = [line["rows_per_s"] for line in good]
            bytes_per_s = [line["gb_per_s"] for line in good if "gb_per_s" in line]
            shown = f"{statistics.median(bytes_per_s):.2f}" if bytes_per_s else None
            rows.append([what, f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f}-{max(rates):,.0f}", shown])
        parts.append(f"Measured on: {where}; {n:,} rows of width {d_in}, {documents:,} news articles")
        parts.append(markdown(("", "rows or tokens/s", "min-max", "GB/s of stored bytes"), rows))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", type=int, default=262_144)
    p.add_argument("--d-in", type=int, default=576)
    p.add_argument("--documents", type=int, default=1500, help="news articles that are tokenised")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--peers-python", help="python of the environment with the peers")
    p.add_argument("--out", type=Path, help="folder of the results")
    p.add_argument("--quick", action="store_true", help="small files, one round")
    p.add_argument("--part", choices=[*PARTS], help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.quick:
        a.rows, a.documents, a.rounds = 32_768, 100, 1
    if a.rows < 8 * BATCH:
        p.error(f"--rows {a.rows}: must be at least {8 * BATCH}, eight batches")
    if a.part:
        torch.set_num_threads(a.threads)
        with tempfile.TemporaryDirectory() as folder:
            found = PARTS[a.part](Path(folder), a)
        print(json.dumps({key: round(value, 3) for key, value in found.items()}))
        return
    if a.out is None:
        p.error("--out: is needed; give the folder of the results")
    results, where = Results(a.out / "data_loading.jsonl", KEY), describe("cpu", a.threads)
    shape = {name: getattr(a, name) for name in ("rows", "d_in", "documents")}
    sizes = [text for name, value in shape.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    own = [sys.executable, "-m", "experiments.benchmarks.data_loading", *sizes, "--threads", str(a.threads)]
    commands = {what: [*own, "--part", what] for what in PARTS}
    if a.peers_python:
        peer = [a.peers_python, "-W", "ignore", "-m", "experiments.benchmarks.peers.mixing_buffer"]
        commands[PEER] = [*peer, "--rows", str(a.rows), "--d-in", str(a.d_in), "--threads", str(a.threads)]
    for number in range(a.rounds):
        for what in turned([*commands], number):
            entry = {"where": where, "what": what, **shape, "round": number}
            if not results.failed(entry):
                results.measure(entry, lambda what=what: run_json(commands[what], a.threads))
    page = render(results.lines)
    (a.out / "data_loading.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()

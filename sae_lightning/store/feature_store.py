"""Which features fired on which tokens, both ways, with the text around them."""

from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core import UserError, derive_seed
from sae_lightning.store.arrays import Sparse, mapped
from sae_lightning.store.manifest import StoreManifest, checksum
from sae_lightning.store.texts import Strings, load_json, words_of
from sae_lightning.store.transpose import FeatureStats

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix, csr_matrix

    from sae_lightning.store.reading import Reader, TextActivations


class Hits(NamedTuple):
    """Tokens and one feature's activations on them, in an order: int64 [m], float32 [m]."""

    tokens: NDArray[np.int64]
    values: NDArray[np.float32]


class Sample(NamedTuple):
    """Tokens on which a feature's |activation| lies in (low, high], and the activations."""

    low: float
    high: float
    tokens: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Context:
    """A token in its text: the exact source characters before it, of it, and after it.

    first, last: the store tokens shown are ``first`` to ``last - 1``. text: number of the text in the store; position:
    of the token inside its text, in tokens; meta: what is known of the text.
    """

    before: str
    token: str
    after: str
    first: int
    last: int
    text: int
    position: int
    meta: dict[str, str]


class FeatureStore:
    """Sparse features of a corpus, memory-mapped: token -> features (CSR), feature -> tokens (CSC), and the text.

    A token's number is its place among the real tokens of the texts that were indexed, 0 to ``n_tokens - 1``, in the
    order of the text. Tokens that the SAE's mask leaves out are there (``kept`` false), without any feature: they are
    shown as context and never as examples. Activations are raw, in the SAE's units, float32, and never 0; where some
    are negative (AbsTopK), strong and weak mean their absolute value.

    Provenance is integers: ``token_ids``, ``text_index`` (number of the text in the store), ``position`` (in the text,
    in tokens) [n_tokens] each; ``document`` [n_texts] is each text's number in its corpus and ``text_starts``
    [n_texts + 1] its first token.

    Opening maps files and reads none of them, so it takes the same time whatever their size; any number of processes
    may read at once. Raises UserError: no store, an unfinished one, an array that is cut off, numbers out of range.
    """

    def __init__(self, path: Path, manifest: StoreManifest) -> None:
        self.path, self.manifest = path, manifest
        self.facts: dict[str, Any] = manifest.facts
        self.n_tokens, self.n_kept, self.n_texts = manifest.n_tokens, manifest.n_kept, manifest.n_texts
        self.d_sae, self.nnz = manifest.d_sae, manifest.nnz
        try:
            arrays = {
                name: mapped(path / f"{name}.npy", file.dtype, file.length) for name, file in manifest.files.items()
            }
            self.token_ids, self.kept = arrays["token_ids"], arrays["kept"]
            self.text_index, self.position, self._ends = arrays["text_index"], arrays["position"], arrays["ends"]
            self.text_starts, self.document = arrays["text_starts"], arrays["document"]
            self._texts = Strings(arrays["texts"], arrays["texts.starts"])
            self._meta = Strings(arrays["meta"], arrays["meta.starts"])
            parts = ("offsets", "indices", "values")
            self.csr, self.csc = (Sparse(*(arrays[f"{kind}.{part}"] for part in parts)) for kind in ("csr", "csc"))
            self.stats = FeatureStats(*(arrays[f"stats.{field.name}"] for field in fields(FeatureStats)))
        except KeyError as error:
            raise UserError(f"{path}: its manifest lacks the array {error}; make the store again") from None

    @classmethod
    def open(cls, path: str | Path) -> "FeatureStore":
        """Open the store in a folder."""
        path = Path(path).expanduser()
        return cls(path, StoreManifest.load(path))

    # Queries

    def top_tokens(self, feature: int, n: int = 20, lowest: bool = False) -> Hits:
        """Return the n tokens of a feature's largest |activation|, strongest first; of equal ones the earlier first.

        lowest: those on which it is weakest and yet active, weakest first. Fewer where it fires on fewer.
        """
        tokens, values = self.column(feature)
        if n < 1:
            raise UserError(f"n={n}: must be at least 1")
        key = np.abs(values) if lowest else -np.abs(values)
        if n < len(values):
            # All that are at least as strong as the n-th, so that ties are broken by the token and not by chance.
            edge = np.partition(key, n - 1)[n - 1]
            chosen = np.flatnonzero(key <= edge)
            tokens, values, key = tokens[chosen], values[chosen], key[chosen]
        order = np.lexsort((tokens, key))[:n]
        return Hits(tokens[order].astype(np.int64), np.asarray(values[order]))

    def features_at(self, token: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return (features, activations) of a token, strongest first."""
        features, values = self.csr.row(self.check_token(token))
        order = np.lexsort((features, -np.abs(values)))
        return features[order].astype(np.int64), np.asarray(values[order])

    def column(self, feature: int) -> tuple[NDArray[np.integer], NDArray[np.float32]]:
        """Return (tokens ascending, activations) of a feature: views of the files."""
        return self.csc.row(self.check_feature(feature))

    def values_at(self, feature: int, first: int, last: int) -> NDArray[np.float32]:
        """Return a feature's activations on tokens ``first`` to ``last - 1``, 0 where it is not active."""
        tokens, values = self.column(feature)
        self._check_stretch(first, last)
        begin, end = np.searchsorted(tokens, [first, last])
        out = np.zeros(last - first, np.float32)
        out[tokens[begin:end] - first] = values[begin:end]
        return out

    def quantile_samples(self, feature: int, bins: int = 5, n: int = 5, seed: int = 0) -> list[Sample]:
        """Return n tokens from each of ``bins`` equal slices of (0, largest |activation|], the strongest slice first.

        Drawn without replacement, all of them where there are no more; within a slice strongest first.
        """
        if bins < 1 or n < 1:
            raise UserError(f"bins={bins}, n={n}: must both be at least 1")
        tokens, values = self.column(feature)
        strength = np.abs(values)
        largest = float(strength.max(initial=0.0))
        edges = np.linspace(0.0, largest, bins + 1)  # float64: compared as such, not rounded to float32
        rng = np.random.default_rng(derive_seed(seed, "store", "quantiles", feature))
        out = []
        for low, high in reversed(list(pairwise(edges))):
            inside = np.flatnonzero((strength > low) & (strength <= high)) if largest else np.zeros(0, np.int64)
            if len(inside) > n:
                inside = rng.choice(inside, n, replace=False)
            order = np.lexsort((tokens[inside], -strength[inside]))
            chosen = inside[order]
            out.append(Sample(float(low), float(high), tokens[chosen].astype(np.int64), np.asarray(values[chosen])))
        return out

    # Text

    def context(
        self, token: int, before: int = 10, after: int = 10, unit: Literal["tokens", "words"] = "tokens"
    ) -> Context:
        """Return a token with so many tokens, or words, of its text around it: never another text's.

        words: what lies between white space; the rest of the token's own word comes along, and tokens stay whole.
        """
        token = self.check_token(token)
        if before < 0 or after < 0:
            raise UserError(f"before={before}, after={after}: must both be at least 0")
        text = int(self.text_index[token])
        begin, end = int(self.text_starts[text]), int(self.text_starts[text + 1])
        if unit == "tokens":
            first, last = max(begin, token - before), min(end, token + 1 + after)
        elif unit == "words":
            first, last = self._words_around(token, begin, end, before, after)
        else:
            raise UserError(f"unit={unit!r}: must be tokens or words")
        return Context(
            before=self._span(first, token, text),
            token=self._span(token, token + 1, text),
            after=self._span(token + 1, last, text),
            first=first,
            last=last,
            text=text,
            position=int(self.position[token]),
            meta=self.meta(text),
        )

    def pieces(self, first: int, last: int) -> list[str]:
        """Return the source characters of each of tokens ``first`` to ``last - 1``; joined they are the source."""
        self._check_stretch(first, last)
        out: list[str] = []
        while first < last:  # text by text, the bytes of each read once
            text = int(self.text_index[first])
            stop = min(last, int(self.text_starts[text + 1]))
            begin, ends = self._begin(first), self._ends[first:stop].tolist()
            data = self._texts.raw(text, begin, ends[-1])
            out += [data[a - begin : b - begin].decode("utf-8") for a, b in pairwise([begin, *ends])]
            first = stop
        return out

    def text(self, text_index: int) -> str:
        """Return a whole text, what follows the last indexed token included."""
        return self._texts.slice(self._check_text(text_index))

    def meta(self, text_index: int) -> dict[str, str]:
        """Return what is known of a text: title, link, file, line, ..."""
        return load_json(self._meta, self._check_text(text_index))

    def _begin(self, token: int) -> int:
        """Return where a token begins, in bytes of its text."""
        return int(self._ends[token - 1]) if self.position[token] else 0

    def _span(self, first: int, last: int, text: int) -> str:
        """Return the characters of tokens ``first`` to ``last - 1`` of one text."""
        return self._texts.slice(text, self._begin(first), int(self._ends[last - 1])) if last > first else ""

    def _words_around(self, token: int, begin: int, end: int, before: int, after: int) -> tuple[int, int]:
        text = int(self.text_index[token])
        starts, ends = words_of(self.text(text))
        own_begin, own_end = self._begin(token), int(self._ends[token])
        own = int(np.searchsorted(ends, own_begin, side="right"))  # the token's own word, or the first after it
        right = int(np.searchsorted(starts, own_end, side="left"))  # the first word that begins after the token
        left = max(0, own - before)
        low = min(int(starts[left]), own_begin) if left < len(starts) else own_begin
        until = min(len(ends), right + after)
        high = max(int(ends[until - 1]), own_end) if until else own_end
        byte_ends = self._ends[begin:end]
        first = begin + int(np.searchsorted(byte_ends, low, side="right"))
        last = begin + int(np.searchsorted(byte_ends, high, side="left")) + 1
        return min(first, token), max(min(last, end), token + 1)

    # Other forms

    def to_scipy(self, by: Literal["token", "feature"] = "token") -> "csr_matrix | csc_matrix":
        """Return the activations [n_tokens, d_sae] as scipy's CSR (by token) or CSC (by feature), copying nothing."""
        from scipy.sparse import csc_matrix, csr_matrix

        if by not in ("token", "feature"):
            raise UserError(f"by={by!r}: must be token or feature")
        part, kind = (self.csr, csr_matrix) if by == "token" else (self.csc, csc_matrix)
        return kind((part.values, part.indices, part.offsets), shape=(self.n_tokens, self.d_sae), copy=False)

    def to_parquet(self, folder: str | Path) -> Path:
        """Write tokens, features and texts as parquet tables into ``folder``; see ``store.parquet``."""
        from sae_lightning.store.parquet import write_parquet

        return write_parquet(self, Path(folder).expanduser())

    def activations_over(self, text: str, features: list[int] | None = None) -> "TextActivations":
        """Return the activations on any text, read as the corpus was; see ``store.reading``."""
        for feature in features or []:
            self.check_feature(feature)
        return self.reader.over(text, features)

    @cached_property
    def reader(self) -> "Reader":
        """The language model and the SAE that the store was made with, loaded at first use; may be set."""
        from sae_lightning.store.reading import open_reader

        return open_reader(self.facts)

    def verify(self, show: bool = True) -> None:
        """Compare every array with its checksum. Raises UserError naming the first that is not as it was written."""
        from sae_lightning.core.progress import progress

        with progress("checking the store", len(self.manifest.files), show) as advance:
            for name, file in self.manifest.files.items():
                if checksum(self.path / f"{name}.npy") != file.xxh3:
                    raise UserError(f"{self.path / name}.npy: is not as it was written; make the store again")
                advance(1, name)

    # Ranges

    def check_feature(self, feature: int) -> int:
        """Return a feature's number. Raises UserError where there is no such feature."""
        if not _whole(feature) or not 0 <= feature < self.d_sae:
            raise UserError(f"feature {feature}: the SAE of this store has features 0 to {self.d_sae - 1}")
        return int(feature)

    def check_token(self, token: int) -> int:
        """Return a token's number. Raises UserError where there is no such token."""
        if not _whole(token) or not 0 <= token < self.n_tokens:
            raise UserError(f"token {token}: the store has tokens 0 to {self.n_tokens - 1}")
        return int(token)

    def _check_stretch(self, first: int, last: int) -> None:
        if not 0 <= first <= last <= self.n_tokens:
            raise UserError(f"tokens {first} to {last}: the store has tokens 0 to {self.n_tokens - 1}")

    def _check_text(self, text: int) -> int:
        if not 0 <= text < self.n_texts:
            raise UserError(f"text {text}: the store has texts 0 to {self.n_texts - 1}")
        return int(text)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r}, n_tokens={self.n_tokens:,}, d_sae={self.d_sae:,}, nnz={self.nnz:,})"


def _whole(value: object) -> bool:
    """Tell whether a value is a whole number, numpy's among them."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)

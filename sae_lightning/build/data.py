"""From config to what a run reads: language model, token windows, calibration, training and held-out rows."""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_lightning.activations import (
    ActivationSource,
    ActivationStats,
    FileSource,
    Harvester,
    MaskPolicy,
    StreamSource,
    calibrate,
    describe,
)
from sae_lightning.build.instantiate import make
from sae_lightning.config import LMConfig, RunConfig
from sae_lightning.core import Permutation, Sites, UserError, derive_seed, write_json
from sae_lightning.lm import FrozenLM, resolve_sites
from sae_lightning.tokens import EpochOrder, TokenStore, Windows, tokenized_store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """What a run fitted before its first step, as its folder keeps it (calibration.json)."""

    mask: MaskPolicy | None
    stats: ActivationStats
    centre: bool

    def save(self, run_dir: Path) -> None:
        """Write calibration.json."""
        mask = self.mask.to_dict() if self.mask else None
        write_json(run_dir / "calibration.json", {"mask": mask, "stats": self.stats.to_dict(), "centre": self.centre})

    @classmethod
    def load(cls, run_dir: Path) -> "Fitted":
        """Read calibration.json; UserError when it is missing or unreadable."""
        path = run_dir / "calibration.json"
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            mask = MaskPolicy.from_dict(value["mask"]) if value["mask"] else None
            return cls(mask, ActivationStats(**value["stats"]), value["centre"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); restore it or start the run anew") from error


@dataclass
class Data:
    """Everything that a run reads, and where held-out figures come from.

    sample: raw rows [n, d_in] that mask, normalisation and initial weights are fitted on; None in a resumed run, which
    has them already. heldout_windows: numbers of ``heldout_harvester``'s windows in a fixed order, those for
    calibrating thresholds last. metadata: what an export says of its data.
    """

    source: ActivationSource
    sample: Tensor | None
    stats: ActivationStats
    mask: MaskPolicy | None
    lm: FrozenLM | None = None
    train_windows: Windows | None = None
    heldout_harvester: Harvester | None = None
    heldout_windows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    heldout_file: FileSource | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def heldout_rows(self, n_rows: int) -> Tensor:
        """Return about ``n_rows`` raw held-out rows, always the same ones (all there are if there are fewer)."""
        if self.heldout_file is not None:
            return self.heldout_file.rows_between(0, min(n_rows, -(-self.heldout_file.n // 2)))
        return _collect(self._harvest(self._halves()[0]), n_rows)

    def calibration_rows(self, n_rows: int) -> Tensor:
        """Return up to ``n_rows`` held-out rows that ``heldout_rows`` never gives (all, where there is only one)."""
        if self.heldout_file is not None:
            n = self.heldout_file.n
            return self.heldout_file.rows_between(max(n - n_rows, -(-n // 2) if n > 1 else 0), n)
        return _collect(self._harvest(self._halves()[1]), n_rows)

    def _halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the windows to measure on and the ones to calibrate on: no window is in both."""
        windows = self.heldout_windows
        half = -(-len(windows) // 2)
        return windows[:half], windows[half:] if len(windows) > 1 else windows

    def _harvest(self, windows: np.ndarray) -> Iterator[Tensor]:
        harvester = self.heldout_harvester
        assert harvester is not None
        for start in range(0, len(windows), harvester.micro_batch):
            yield harvester.rows(windows[start : start + harvester.micro_batch]).x.float()


def _collect(batches: Iterable[Tensor], n_rows: int) -> Tensor:
    parts, have = [], 0
    for batch in batches:
        parts.append(batch)
        have += len(batch)
        if have >= n_rows:
            break
    return torch.cat(parts)[:n_rows]


def pick_device(name: str) -> str:
    """Return ``cuda`` for ``auto`` where there is a GPU, else ``cpu``; any other name as it is."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def build_lm(config: LMConfig, seed: int) -> FrozenLM:
    """Load the frozen language model of a config."""
    return FrozenLM.load(
        config.name,
        device=pick_device(config.device),
        dtype=config.dtype,
        revision=config.revision,
        seed=seed,
        **config.options,
    )


def enough_tokens(config: RunConfig) -> int:
    """Return how much text a run can use: its budget, and enough held-out documents for every measurement."""
    measured = 2 * config.evaluation.final_tokens + config.evaluation.downstream_tokens
    return int(1.25 * max(config.tokens, measured / config.data.heldout_fraction))


def build_store(run: RunConfig, lm: FrozenLM) -> TokenStore:
    """Return the tokenised corpus: made once and kept in the cache, or the user's own token file."""
    config = run.data
    if config.kind == "tokens":
        assert config.path is not None
        store = TokenStore.open(config.path, config.dtype, config.separator)
        store.check_vocab(lm.vocab_size)
        return store
    source = make(config.source or {}, "data.source")
    limit = enough_tokens(run) if config.max_tokens == "auto" else config.max_tokens
    return tokenized_store(source, lm.tokenizer, vocab_size=lm.vocab_size, max_tokens=limit)


def build_data(config: RunConfig, fitted: Fitted | None = None) -> Data:
    """Build what a run reads. With ``fitted`` (a resumed run) nothing is estimated anew."""
    if config.data.kind == "activations":
        return _from_file(config, fitted)
    assert config.lm is not None
    return _from_text(config, build_lm(config.lm, config.seed), fitted)


def _windows(config: RunConfig, lm: FrozenLM, store: TokenStore, split: str) -> Windows:
    data = config.data
    if data.context_length > lm.n_ctx:
        raise UserError(
            f"data.context_length={data.context_length}: the language model reads at most {lm.n_ctx} tokens; lower it"
        )
    return Windows(
        store,
        split,  # pyright: ignore[reportArgumentType]
        context_length=data.context_length,
        packing=data.packing,
        separator_id=lm.separator_id,
        bos_id=lm.bos_id,
        prepend_bos=data.prepend_bos,
        heldout_fraction=data.heldout_fraction,
        seed=config.seed,
    )


def _from_text(config: RunConfig, lm: FrozenLM, fitted: Fitted | None) -> Data:
    data = config.data
    names = resolve_sites(config.sites.kind, config.sites.layer, names=config.sites.read, n_layers=lm.n_layers)
    for name in names:
        lm.check_site(name)
    sites = Sites(read=names, write=names)
    store = build_store(config, lm)
    train, heldout = (_windows(config, lm, store, split) for split in ("train", "heldout"))
    if train.n_tokens < data.batch_size:
        raise UserError(
            f"data: the training split has {train.n_tokens} tokens, fewer than one batch of "
            f"data.batch_size={data.batch_size}; give more text or lower data.batch_size"
        )
    if fitted is not None:
        assert fitted.mask is not None
        mask, sample, stats = fitted.mask, None, fitted.stats
    else:
        policy = MaskPolicy(
            special_ids=lm.special_ids, first_position=data.mask_first_position, norm_multiple=data.mask_norm_multiple
        )
        harvester = Harvester(lm, sites, train, policy, data.micro_batch)
        found = calibrate(harvester, config.normalise.sample_tokens, config.seed)
        mask, sample, stats = found.mask, found.sample, found.stats
    harvester = Harvester(lm, sites, train, mask, data.micro_batch)
    source = StreamSource(
        harvester,
        EpochOrder(len(train), config.seed),
        batch_size=data.batch_size,
        buffer_tokens=data.buffer_tokens,
        mix=data.mix,
        seed=config.seed,
        budget=config.total_steps * data.batch_size,
    )
    order = Permutation(len(heldout), derive_seed(0, "heldout"))[np.arange(len(heldout))]
    return Data(
        source=source,
        sample=sample,
        stats=stats,
        mask=mask,
        lm=lm,
        train_windows=train,
        heldout_harvester=Harvester(lm, sites, heldout, mask, data.micro_batch),
        heldout_windows=order,
        metadata={
            "sites": {"read": list(sites.read), "write": list(sites.write)},
            "lm": lm.identity(),
            "mask": mask.to_dict(),
            "data": {"windows": train.identity(), "context_length": data.context_length},
        },
    )


def _from_file(config: RunConfig, fitted: Fitted | None) -> Data:
    data = config.data
    assert data.path is not None
    rows = FileSource(data.path, data.batch_size, config.seed).file.n
    cut = rows if data.heldout else rows - max(1, round(rows * data.heldout_fraction))
    source = FileSource(data.path, data.batch_size, config.seed, rows=(0, cut))
    heldout = FileSource(data.heldout, 1) if data.heldout else FileSource(data.path, 1, rows=(cut, rows))
    if data.heldout and heldout.file.identity() == source.file.identity():
        raise UserError(
            f"data.heldout={data.heldout}: is the training file; give rows of other text, or leave it out to hold out "
            "the last data.heldout_fraction of the rows"
        )
    if heldout.d_in != source.d_in:
        raise UserError(
            f"data.heldout={data.heldout}: rows of width {heldout.d_in}, those of data.path={data.path} have "
            f"{source.d_in}; give activations of the same site"
        )
    if fitted is not None:
        sample, stats = None, fitted.stats
    else:
        sample = source.sample(config.normalise.sample_tokens)
        stats = describe(sample)
    return Data(
        source=source,
        sample=sample,
        stats=stats,
        mask=None,
        heldout_file=heldout,
        metadata={"sites": None, "lm": None, "mask": None, "data": {"activations": Path(data.path).name}},
    )

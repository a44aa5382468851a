"""From config to what a run reads: where its batches, its calibration sample and its held-out rows come from."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_lightning.activations import ActivationSource, ActivationStats, FileSource, Harvester, MaskPolicy, describe
from sae_lightning.activations.synthetic import SyntheticRows, SyntheticSource
from sae_lightning.build.layout import Layout
from sae_lightning.config import DataConfig, RunConfig
from sae_lightning.core import ActivationBatch, Sites, UserError, write_json
from sae_lightning.lm import FrozenLM
from sae_lightning.tokens import WindowSample


@dataclass(frozen=True)
class Fitted:
    """What a run fitted and chose before its first step, as its folder keeps it (calibration.json).

    kept: whether it reads kept activations; a resumed run must read what it read before, since a checkpoint holds the
    place in the one kind of stream or the other. product: what its selecting product is computed in, as
    ``build.execution`` decided.
    """

    mask: MaskPolicy | None
    stats: ActivationStats
    centre: bool
    kept: bool = False
    product: str | None = None

    def save(self, run_dir: Path) -> None:
        """Write calibration.json."""
        mask = self.mask.to_dict() if self.mask else None
        own = {"centre": self.centre, "kept": self.kept, "product": self.product}
        write_json(run_dir / "calibration.json", {"mask": mask, "stats": self.stats.to_dict(), **own})

    @classmethod
    def load(cls, run_dir: Path) -> "Fitted":
        """Read calibration.json; UserError when it is missing or unreadable."""
        path = run_dir / "calibration.json"
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            mask = MaskPolicy.from_dict(value["mask"]) if value["mask"] else None
            stats = ActivationStats(**value["stats"])
            return cls(mask, stats, value["centre"], value["kept"], value["product"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); restore it or start the run anew") from error


@dataclass
class Data:
    """Everything that a run reads, and where held-out figures come from.

    layout: which sites a row is made of.
    sample, targets: raw rows [n, d_in] that mask, normalisation and initial weights are fitted on, and what is to be
    written for them [n, d_out] (but for a transcoder the same tensor); None in a resumed run, which has them already.
    heldout: gives held-out rows by window number (kept activations or the language model); downstream: the same windows
    through the language model, None where nothing may be read there.
    cache: what kept activations are read, in words. metadata: what an export says of its data.

    Of the held-out windows the even numbers are measured on and thresholds are calibrated on the odd ones.
    """

    source: ActivationSource
    layout: Layout
    sample: Tensor | None
    stats: ActivationStats
    mask: MaskPolicy | None
    targets: Tensor | None = None
    lm: FrozenLM | None = None
    train_windows: WindowSample | None = None
    heldout: Harvester | None = None
    downstream: Harvester | None = None
    heldout_file: FileSource | SyntheticRows | None = None
    cache: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return what metrics.json says of where the activations came from."""
        if self.lm is None:
            return {}
        return {"lm_windows_read": self.lm.windows_read, "activations": "cache" if self.cache else "stream"}

    def heldout_rows(self, n_rows: int) -> ActivationBatch:
        """Return about ``n_rows`` raw held-out rows, always the same ones (all there are if there are fewer)."""
        if self.heldout_file is not None:
            return between(self.heldout_file, 0, min(n_rows, -(-self.heldout_file.n // 2)))
        return _collect(self._rows(self.measured_windows()), n_rows)

    def calibration_rows(self, n_rows: int) -> ActivationBatch:
        """Return up to ``n_rows`` held-out rows that ``heldout_rows`` never gives (all, where there is only one)."""
        if self.heldout_file is not None:
            n = self.heldout_file.n
            return between(self.heldout_file, max(n - n_rows, -(-n // 2) if n > 1 else 0), n)
        return _collect(self._rows(self._numbers()[1::2] or [0]), n_rows)

    def measured_windows(self) -> Sequence[int]:
        """Return the numbers of the held-out windows that figures are measured on."""
        return self._numbers()[0::2]

    def _numbers(self) -> Sequence[int]:
        return range(len(self.heldout.windows)) if self.heldout is not None else range(0)

    def _rows(self, windows: Sequence[int]) -> Iterator[ActivationBatch]:
        harvester = self.heldout
        assert harvester is not None
        for start in range(0, len(windows), harvester.micro_batch):
            yield harvester.rows(np.array(windows[start : start + harvester.micro_batch]))


def _collect(batches: Iterable[ActivationBatch], n_rows: int) -> ActivationBatch:
    """Return the first rows in float32; fewer where there are no more."""
    parts: list[ActivationBatch] = []
    have = 0
    for batch in batches:
        parts.append(batch)
        have += len(batch)
        if have >= n_rows:
            break
    x = torch.cat([part.x.float() for part in parts])[:n_rows]
    same = all(part.y is part.x for part in parts)
    y = x if same else torch.cat([part.y.float() for part in parts])[:n_rows]
    return ActivationBatch(x=x, y=y, token_index=torch.cat([part.token_index for part in parts])[:n_rows])


def between(rows: FileSource | SyntheticRows, first: int, last: int) -> ActivationBatch:
    """Return rows ``first`` to ``last`` with their targets, cut to what there is."""
    x = rows.rows_between(first, last)
    y = rows.targets_between(first, last) if isinstance(rows, FileSource) else None
    return ActivationBatch(x=x, y=x if y is None else y, token_index=torch.arange(len(x)))


def build_data(config: RunConfig, fitted: Fitted | None = None) -> Data:
    """Build what a run reads. With ``fitted`` (a resumed run) nothing is estimated anew."""
    if config.data.kind == "activations":
        return _from_file(config, fitted)
    if config.data.kind == "synthetic":
        from sae_lightning.build.synthetic import data_from_synthetic

        return data_from_synthetic(config, fitted)
    from sae_lightning.build.text import data_from_text

    return data_from_text(config, fitted)


def file_split(data: DataConfig, seed: int) -> tuple[FileSource, FileSource]:
    """Return the rows of a file that are trained on and those that are held out. Raises UserError where they mix."""
    assert data.path is not None
    rows = FileSource(data.path, data.batch_size, seed).file.n
    cut = rows if data.heldout else rows - max(1, round(rows * data.heldout_fraction))
    source = FileSource(data.path, data.batch_size, seed, rows=(0, cut), targets=data.targets)
    if data.heldout:
        heldout = FileSource(data.heldout, 1)
    else:
        heldout = FileSource(data.path, 1, rows=(cut, rows), targets=data.targets)
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
    return source, heldout


def _from_file(config: RunConfig, fitted: Fitted | None) -> Data:
    data = config.data
    assert data.path is not None
    source, heldout = file_split(data, config.stream_seed)
    told = {"activations": Path(data.path).name, "identity": source.file.identity()}
    layout = None
    if data.targets is not None:
        told["targets"] = Path(data.targets).name
        read, write = config.sites.read, config.sites.write
        names = Sites(tuple(read or [Path(data.path).name]), tuple(write or [Path(data.targets).name]))
        layout = Layout(names, (source.d_in,), (source.d_out,))
    return data_from_rows(source, heldout, told, config.normalise.sample_tokens, fitted, layout)


def data_from_rows(
    source: FileSource | SyntheticSource,
    heldout: FileSource | SyntheticRows,
    told: dict[str, Any],
    sample_tokens: int,
    fitted: Fitted | None,
    layout: Layout | None = None,
) -> Data:
    """Build what a run without a language model reads. told: what its export says of the data.

    layout: where a row is made of several sites.
    """
    layout = layout or Layout.of_rows(source.d_in)
    if fitted is not None:
        sample, targets, stats = None, None, fitted.stats
    else:
        sample = source.sample(sample_tokens)
        targets = source.sample_targets(sample_tokens) if isinstance(source, FileSource) else None
        targets = sample if targets is None else targets
        stats = describe(sample)
    return Data(
        source=source,
        layout=layout,
        sample=sample,
        stats=stats,
        mask=None,
        targets=targets,
        heldout_file=heldout,
        metadata={"sites": layout.to_metadata(), "lm": None, "mask": None, "data": told},
    )

"""A sweep in TensorBoard's HParams page: one session a trained SAE."""

import re
import shutil
from pathlib import Path

from sae_lightning.reports.sweep_table import SIZES, SweepTable
from sae_lightning.studies.evaluation import HELDOUT_KEYS


def write_hparams(folder: Path, table: SweepTable) -> None:
    """Write settings and metrics of every row under ``folder``, in place of what an earlier call wrote there."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    shutil.rmtree(folder, ignore_errors=True)
    measured = [name for name in table.columns if name in (*HELDOUT_KEYS, *SIZES)]
    for row in table.rows:
        settings = {name: _plain(row[name]) for name in table.settings}
        metrics = {f"final/{name}": float(row[name]) for name in measured if row[name] is not None}
        with SummaryWriter(str(folder / row["run_dir"] / _safe(row["lane"]))) as writer:
            file = writer._get_file_writer()
            assert file is not None
            for summary in hparams(settings, metrics):
                file.add_summary(summary)
            for name, value in metrics.items():
                writer.add_scalar(name, value, 0)


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=,-]+", "-", name).strip(".") or "lane"


def _plain(value: object) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)

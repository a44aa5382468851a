"""This package's own format: ``config.json`` and ``sae.safetensors``, as ``sae.io`` writes them."""

from pathlib import Path

from torch import Tensor

from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.formats.base import Format
from sae_lightning.sae.io import CONFIG, load_sae, save_sae


class NativeFormat(Format):
    """Holds every SAE of this package; a run folder is read by its ``export/``."""

    name = "sae_lightning"
    files = "config.json and sae.safetensors, or a run folder with export/"
    patterns = ("config.json", "sae.safetensors")

    def recognise(self, path: Path) -> bool:
        if (path / "export" / CONFIG).is_file():
            return True
        return (path / CONFIG).is_file() and not (path / "ae.pt").exists()

    def read(self, path: Path) -> SparseAutoencoder:
        return load_sae(path)

    def write(self, sae: SparseAutoencoder, folder: Path, rows: Tensor | None = None) -> None:
        save_sae(folder, sae)

    def how_to_load(self, folder: str) -> str:
        return (
            f"from sae_lightning.sae import load_sae\n\nsae = load_sae({folder})\nfeatures = sae.encode(rows).dense()"
        )

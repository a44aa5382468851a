"""What every format is: how its files are recognised, read and written."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.sae.base import SparseAutoencoder


class Format(ABC):
    """A way to keep an SAE in files. A subclass with a ``name`` registers itself (see formats.registry).

    - ``recognise(path)``: whether files of this format are there, whole or not. Reads next to nothing.
    - ``read(path)``: the SAE in eval mode, its ``metadata`` in this package's own form as far as the files say.
    - ``write(sae, folder, rows)``: files that the library's own loader takes. rows [n, d_in]: raw activations for what
      a format keeps about data. Raises UserError with the reason for an SAE that the format can't hold.

    name: what ``to=`` takes. files: what a folder of it holds, in words. patterns: the names of the files it writes.
    """

    name: ClassVar[str]
    files: ClassVar[str]
    patterns: ClassVar[tuple[str, ...]]
    registered: ClassVar[dict[str, "Format"]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            Format.registered[cls.name] = cls()

    @abstractmethod
    def recognise(self, path: Path) -> bool:
        """Return whether ``path`` looks like this format."""

    @abstractmethod
    def read(self, path: Path) -> SparseAutoencoder:
        """Return the SAE in ``path``."""

    @abstractmethod
    def write(self, sae: SparseAutoencoder, folder: Path, rows: Tensor | None = None) -> None:
        """Write ``sae`` into ``folder``."""

    @abstractmethod
    def how_to_load(self, folder: str) -> str:
        """Return the Python lines that load it with the library it belongs to. folder: an expression."""

    def refuse(self, what: str, remedy: str = "choose another format") -> UserError:
        """Return the error for an SAE that this format can't hold."""
        return UserError(f"to={self.name}: {what}; {remedy}")


def one_site(form: Format, sae: SparseAutoencoder) -> None:
    """Raise UserError for a crosscoder: other libraries' files know one site to read and one to write."""
    sites = sae.metadata.get("sites") or {}
    for side in ("read", "write"):
        if len(names := sites.get(side) or ()) > 1:
            raise form.refuse(f"this SAE has several sites to {side} ({', '.join(names)}) and the format knows one")
    if sae.n_sites > 1:
        raise form.refuse(f"this SAE writes {sae.n_sites} sites and the format knows one")


def is_transcoder(sae: SparseAutoencoder) -> bool:
    """Whether the SAE writes something else than it reads, or has a linear path beside its features."""
    sites = sae.metadata.get("sites") or {}
    return sae.skip or sae.d_in != sae.d_out or sites.get("read") != sites.get("write")

"""Which sites lie side by side in a run's rows, and what follows from that for an SAE."""

from dataclasses import dataclass
from typing import Any

from sae_lightning.core import Sites


@dataclass(frozen=True)
class Layout:
    """The sites of a row that is read [d_in] and of its target [d_out], in their order.

    sites: their names; None where nobody knows them (a file of rows). widths, widths_out: of each one. What kind of
    SAE it takes follows from the names and never from the widths: a transcoder's two sites may be equally wide.
    """

    sites: Sites | None
    widths: tuple[int, ...]
    widths_out: tuple[int, ...]

    @classmethod
    def of_rows(cls, width: int) -> "Layout":
        """Return the layout of rows that are reconstructed as one whole."""
        return cls(None, (width,), (width,))

    @property
    def d_in(self) -> int:
        return sum(self.widths)

    @property
    def d_out(self) -> int:
        return sum(self.widths_out)

    @property
    def transcodes(self) -> bool:
        """Whether what is written is not what is read."""
        return self.sites is not None and self.sites.read != self.sites.write

    @property
    def crosses(self) -> bool:
        """Whether several sites are written."""
        return len(self.widths_out) > 1

    def to_metadata(self) -> dict[str, Any] | None:
        """Return what an export says of its sites (but ``scale_out``, which the lane knows)."""
        if self.sites is None:
            return None
        names = {"read": list(self.sites.read), "write": list(self.sites.write)}
        return {**names, "widths": list(self.widths), "widths_out": list(self.widths_out)}

"""Where examples are from: titles and links of the texts, some to a file."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sae_lightning.reports.site.data_files import numbered, write_data
from sae_lightning.reports.site.escape import safe_link
from sae_lightning.store import FeatureStore

#: Texts in one file.
PER_FILE = 512
_LONGEST = 200


def write_sources(folder: Path, store: FeatureStore, used: NDArray[np.bool_]) -> None:
    """Write ``data/sources/``: title and link (http, https or none) of every text that an example is from.

    A range of texts that no example is from gets no file: no page asks for it.
    """
    for first in range(0, store.n_texts, PER_FILE):
        here = (first + np.flatnonzero(used[first : first + PER_FILE])).tolist()
        if here:
            write_data(
                folder, numbered("sources", first // PER_FILE), {str(text): source(store.meta(text)) for text in here}
            )


def source(meta: Mapping[str, str]) -> list[str | None]:
    """Return [title, link] of a text; what has no title is named by file and line."""
    title = meta.get("title") or ":".join(str(meta[key]) for key in ("file", "line") if key in meta)
    title = title if len(title) <= _LONGEST else title[: _LONGEST - 1] + "…"
    return [title, safe_link(meta.get("link"))]

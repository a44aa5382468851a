"""How strongly does each feature fire on each token of a text?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, MinLen
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from pydantic import NonNegativeInt

from sae_lightning.core import UserError
from sae_lightning.store import FeatureStore
from sae_lightning.studies.analysis.layout import check_features
from sae_lightning.studies.progress import track
from sae_lightning.studies.study import Cell, Result, Study, Table
from sae_lightning.studies.subject import NEEDS_STORE, Subject

COLUMNS = ("text", "token", "piece", "kept", "feature", "value")


@dataclass(frozen=True)
class Coloured:
    """A text to be coloured, token by token.

    pieces: exact source characters; joined they are the text. kept [n]: what the SAE's mask leaves in.
    features [m]; values [n, m] float32: activations, 0 where a feature is off.
    largest [m]: a full colour: the feature's largest |activation| in the store, or here if that is more.
    """

    pieces: list[str]
    kept: Bool[NDArray, "n"]
    features: Int[NDArray, "m"]
    values: Float[NDArray, "n m"]
    largest: Float[NDArray, "m"]


def colour(
    store: FeatureStore,
    texts: Sequence[str],
    features: Sequence[int] | None = None,
    *,
    top: int = 10,
    show_progress: bool = True,
) -> list[Coloured]:
    """Return each text with the same features' activations, read as the store's corpus was.

    features: None: of those active on any of the texts the ``top`` with the largest |activation|, strongest first, of
    equal ones the lower first. Loads the language model and the SAE at first use. Raises UserError for a text without
    tokens and for a feature that the SAE does not have.
    """
    named = None if features is None else [store.check_feature(feature) for feature in features]
    read = [
        store.activations_over(text, named)
        for text in track(texts, len(texts), f"colouring {len(texts)} texts", show_progress)
    ]
    largest = np.zeros(store.d_sae, np.float32)
    for one in read:
        np.maximum.at(largest, one.features, np.abs(one.values).max(0, initial=0.0))
    if named is None:
        order = np.lexsort((np.arange(store.d_sae), -largest))
        chosen = order[: min(top, int((largest > 0).sum()))].astype(np.int64)
    else:
        chosen = np.asarray(named, np.int64)
    scale = np.maximum(largest, np.asarray(store.stats.largest))[chosen]
    out = []
    for one in read:
        values = np.zeros((len(one.pieces), len(chosen)), np.float32)
        place = {int(feature): column for column, feature in enumerate(one.features)}
        for column, feature in enumerate(chosen.tolist()):
            if feature in place:
                values[:, column] = one.values[:, place[feature]]
        out.append(Coloured(one.pieces, one.kept, chosen, values, scale))
    return out


class ColouringStudy(Study):
    """Tables ``colouring`` ``tokens`` ``features``: the activations of some features on every token of any text.

    - ``colouring``: one row for each token and feature that is active on it: number of the text, number of the token in
      it, the token's exact characters, whether the SAE's mask keeps it, feature, activation;
    - ``tokens``: every token of every text, in order: joined, the pieces are the text;
    - ``features``: what a full colour stands for (the feature's largest |activation| in the store), its strongest
      activation on the texts, with its sign, and on how many of their tokens it is active.

    texts: the texts. file: a text file in their place, read as one text.
    features: null: the ``top`` features with the largest |activation| on the texts.
    max_characters: longer texts are cut, and a note says so.

    Texts are read as the store's corpus was (``FeatureStore.activations_over``). ``colour`` gives the same to code.

    Raises UserError: texts and a file, no such file, a text without tokens, features that the SAE does not have.
    """

    name: ClassVar[str] = "colouring"
    reads_store: ClassVar[bool] = True

    def __init__(
        self,
        texts: Annotated[Sequence[str], MinLen(1)] | None = None,
        file: str | None = None,
        features: Annotated[Sequence[NonNegativeInt], MinLen(1)] | None = None,
        top: Annotated[int, Ge(1)] = 10,
        max_characters: Annotated[int, Ge(1)] = 20_000,
        show_progress: bool = True,
    ) -> None:
        if texts is not None and file is not None:
            raise UserError(f"studies.colouring.file={file}: texts are given, too; give one of the two")
        self.texts = list(texts or ()) if file is None else [_read(file)]
        self.features, self.top = None if features is None else tuple(features), top
        self.max_characters, self.show_progress = max_characters, show_progress

    def reason(self, subject: Subject) -> str | None:
        if subject.store is None:
            return NEEDS_STORE
        if not self.texts:
            return "needs texts; set studies.colouring.texts, or studies.colouring.file to a text file"
        return None

    def run(self, subject: Subject) -> Result:
        if reason := self.reason(subject):
            raise UserError(f"{self.name}: {reason}")
        assert subject.store is not None
        features = self.features
        if features is not None:
            features = check_features(features, subject.store.d_sae, "studies.colouring.features")
        texts = [text[: self.max_characters] for text in self.texts]
        found = colour(subject.store, texts, features, top=self.top, show_progress=self.show_progress)
        cells: list[tuple[Cell, ...]] = []
        tokens: list[tuple[Cell, ...]] = []
        for number, one in enumerate(found):
            tokens += [(number, i, piece, bool(one.kept[i])) for i, piece in enumerate(one.pieces)]
            for i, column in np.argwhere(one.values != 0).tolist():
                feature, value = int(one.features[column]), float(one.values[i, column])
                cells.append((number, i, one.pieces[i], bool(one.kept[i]), feature, value))
        values = np.concatenate([one.values for one in found])
        strongest = np.abs(values).argmax(0)
        rows: list[tuple[Cell, ...]] = [
            (int(f), float(found[0].largest[j]), float(values[strongest[j], j]), int((values[:, j] != 0).sum()))
            for j, f in enumerate(found[0].features)
        ]
        tables = {
            "colouring": Table(COLUMNS, tuple(cells), "Activations by token, where there are any"),
            "tokens": Table(("text", "token", "piece", "kept"), tuple(tokens), "The texts, token by token"),
            "features": Table(("feature", "full", "largest", "tokens"), tuple(rows), "Features by token coloured"),
        }
        cut = [i for i, text in enumerate(self.texts) if len(text) > self.max_characters]
        notes = [f"text {i} is cut to its first {self.max_characters:,} characters" for i in cut]
        if not len(found[0].features):
            notes.append("no feature is active on these texts")
        return Result({}, tables, tuple(notes))


def _read(path: str) -> str:
    setting = f"studies.colouring.file={path}"
    try:
        text = Path(path).expanduser().read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{setting}: there is no such file; give a text file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{setting}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{setting}: cannot be read ({error.strerror}); give a text file") from None
    if not text.strip():
        raise UserError(f"{setting}: is empty; give a file with text in it")
    return text

"""The page of coloured texts: whole texts, and on each token how strongly the chosen feature fires."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_lightning.reports.site.data_files import Vocabulary, numbered, rounded, write_data
from sae_lightning.reports.site.reading import Reading
from sae_lightning.studies.analysis.colouring import ColouringStudy
from sae_lightning.studies.study import Result

_LABEL = 3
_BEGINNING = 60


def write_texts(folder: Path, reading: Reading, tops: Sequence[Sequence[str]]) -> bool:
    """Write ``data/texts.js`` and a file for each text in ``data/texts/``; False where no text was coloured."""
    result = reading.results.get(ColouringStudy.name)
    if result is None or not result.tables["tokens"].rows:
        return False
    tokens: dict[int, list[Any]] = defaultdict(list)
    for text, _, piece, kept in result.tables["tokens"].rows:
        tokens[_whole(text)].append((str(piece), bool(kept)))
    active: dict[int, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for text, token, _, _, feature, value in result.tables["colouring"].rows:
        active[_whole(text)][_whole(feature)] += [_whole(token), rounded(float(value or 0.0))]
    names = []
    for number, text in enumerate(sorted(tokens)):
        vocabulary = Vocabulary()
        pieces = [vocabulary[piece] for piece, _ in tokens[text]]
        masked = [i for i, (_, kept) in enumerate(tokens[text]) if not kept]
        found = [[feature, sparse] for feature, sparse in sorted(active[text].items())]
        data = {"vocabulary": vocabulary.texts, "pieces": pieces, "masked": masked, "active": found}
        write_data(folder, numbered("texts", number), data)
        names.append("".join(piece for piece, _ in tokens[text])[:_BEGINNING])
    write_data(folder, "texts", {"texts": names, "features": _features(result, tops)})
    return True


def _features(result: Result, tops: Sequence[Sequence[str]]) -> list[Any]:
    """Return [feature, what a full colour stands for, largest on the texts, tokens, its top tokens] of each."""
    return [
        [
            feature,
            rounded(float(full or 0.0)),
            rounded(float(largest or 0.0)),
            tokens,
            list(tops[_whole(feature)][:_LABEL]),
        ]
        for feature, full, largest, tokens in result.tables["features"].rows
    ]


def _whole(value: Any) -> int:
    return int(value)

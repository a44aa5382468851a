"""Which labelled texts a probe is trained and tested on: balanced, without repeats, split by what the texts say."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from sae_lightning.core import UserError
from sae_lightning.tokens import TextSource

# A class needs so many texts on either side of the split.
_LEAST_A_SIDE = 5


@dataclass(frozen=True)
class LabelledTexts:
    """Texts of a task, in an order that follows from the texts alone.

    labels: number of each text's class in ``classes`` (sorted by name). test: which texts probes are tested on.
    """

    name: str
    texts: tuple[str, ...]
    labels: Int[NDArray, "n"]
    classes: tuple[str, ...]
    test: Bool[NDArray, "n"]
    notes: tuple[str, ...] = ()


def choose_texts(
    source: TextSource, *, max_texts: int, min_per_class: int, test_fraction: float, seed: int = 0
) -> LabelledTexts:
    """Return the same number of texts of each class: ``max_texts`` in all at most, less where a class has fewer.

    A text is on the test side when ``hash(text) / 2^64 < test_fraction``: repeats are never on both sides, and the
    order of the file has no say. A text counts once, and not at all where it occurs under two labels. seed: which texts
    are taken where there are more. Classes with fewer than ``min_per_class`` texts, or fewer than 5 on either side,
    are left out, and said so in the notes.

    Raises UserError where fewer than two classes are left, and where ``max_texts`` leaves a class fewer than 5 texts
    on either side.
    """
    label_of: dict[bytes, str] = {}
    twice: set[bytes] = set()
    unlabelled = repeats = 0
    for document in source.documents():
        text, label = document.text.strip(), document.meta.get("label", "")
        if not text:
            continue
        if not label:
            unlabelled += 1
            continue
        digest = _digest(text)
        repeats += digest in label_of
        if label_of.setdefault(digest, label) != label:
            twice.add(digest)
    for digest in twice:
        del label_of[digest]

    sizes = Counter(label_of.values())
    sides: dict[str, tuple[list[bytes], list[bytes]]] = {label: ([], []) for label in sorted(sizes)}
    for digest, label in label_of.items():
        sides[label][_is_test(digest, test_fraction)].append(digest)
    kept = {
        label: side
        for label, side in sides.items()
        if sizes[label] >= min_per_class and min(map(len, side)) >= _LEAST_A_SIDE
    }
    if len(kept) < 2:
        raise _too_few_classes(source, sizes, min_per_class)

    each = max_texts // len(kept)
    least = 2 * _LEAST_A_SIDE
    if each < least:
        raise UserError(
            f"studies.probe.max_texts={max_texts}: of {source} are {len(kept)} classes, and each needs {least} texts, "
            f"half to train on and half to test on; raise it to {least * len(kept)}"
        )
    n_test = min(max(round(each * test_fraction), _LEAST_A_SIDE), each - _LEAST_A_SIDE)
    shares = (each - n_test, n_test)
    taken: dict[bytes, tuple[str, bool]] = {}
    for is_test in (False, True):
        n = min(shares[is_test], *(len(side[is_test]) for side in kept.values()))
        for label, side in kept.items():
            ranked = sorted(side[is_test], key=lambda digest: hashlib.blake2b(digest, key=str(seed).encode()).digest())
            taken |= dict.fromkeys(ranked[:n], (label, is_test))
    notes = _notes(source, unlabelled, repeats, len(twice), {c: n for c, n in sorted(sizes.items()) if c not in kept})
    return _read(source, taken, tuple(kept), notes)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _is_test(digest: bytes, fraction: float) -> bool:
    return int.from_bytes(digest[:8], "little") / 2**64 < fraction


def _read(
    source: TextSource, taken: dict[bytes, tuple[str, bool]], classes: tuple[str, ...], notes: Sequence[str]
) -> LabelledTexts:
    text_of: dict[bytes, str] = {}
    for document in source.documents():
        text = document.text.strip()
        if text and (digest := _digest(text)) in taken:
            text_of.setdefault(digest, text)
    order = sorted(text_of)
    labels = np.array([classes.index(taken[digest][0]) for digest in order])
    test = np.array([taken[digest][1] for digest in order])
    return LabelledTexts(str(source), tuple(text_of[d] for d in order), labels, classes, test, tuple(notes))


def _notes(source: TextSource, unlabelled: int, repeats: int, twice: int, dropped: dict[str, int]) -> list[str]:
    notes = []
    if dropped:
        listed = ", ".join(f"{label!r} ({n})" for label, n in list(dropped.items())[:10])
        notes.append(f"{source}: classes with too few texts are left out: {listed}")
    for n, what in (
        (unlabelled, "texts without a label are left out"),
        (repeats, "repeated texts count once"),
        (twice, "texts under two labels are left out"),
    ):
        if n:
            notes.append(f"{source}: {n:,} {what}")
    return notes


def _too_few_classes(source: TextSource, sizes: Counter[str], least: int) -> UserError:
    there = ", ".join(f"{label!r} ({n})" for label, n in sizes.most_common(8)) or "none"
    return UserError(
        f"labelled texts of {source}: classes are {there}; a probe needs two of at least {least} texts: give more "
        "texts, or lower studies.probe.min_per_class"
    )

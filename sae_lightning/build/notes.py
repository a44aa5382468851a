"""What people wrote about features, and what explainers did: small JSON files, by feature number."""

import json
from collections.abc import Mapping
from pathlib import Path

from sae_lightning.core import UserError
from sae_lightning.store import FeatureStore
from sae_lightning.studies.autointerp.explanations import Explanation, Explanations


def read_notes(path: str | None, d_sae: int) -> dict[int, str]:
    """Return the notes of a file ``{"17": "a note", ...}``, such as a report exports; nothing for None.

    Raises UserError: no such file, no JSON object of texts, a feature that the SAE does not have.
    """
    if path is None:
        return {}
    try:
        value = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"notes={path}: cannot be read ({error.strerror}); give a JSON file of notes") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"notes={path}: is no JSON ({error}); give an object of texts by feature number") from None
    if isinstance(value, dict) and isinstance(value.get("notes"), dict):
        value = value["notes"]
    if not isinstance(value, dict) or not all(isinstance(note, str) for note in value.values()):
        raise UserError(f'notes={path}: must be an object of texts by feature number, as {{"17": "a note"}}')
    out = {}
    for key, note in value.items():
        if not (len(key) < 10 and key.isdecimal() and key == str(int(key)) and int(key) < d_sae):
            raise UserError(f"notes={path}: {key[:20]!r} is no feature of this SAE, which has 0 to {d_sae - 1}")
        if note.strip():
            out[int(key)] = note
    return out


def read_explanations(path: str | None, store: FeatureStore) -> Mapping[int, tuple[Explanation, ...]]:
    """Return what the features of a store's SAE are said to mean; nothing for None.

    Raises UserError: no such file, no file of explanations, one of another SAE's.
    """
    if path is None:
        return {}
    return Explanations.load(path, store.facts["sae"]["sha256"], store.d_sae).features

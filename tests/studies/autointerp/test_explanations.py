"""Explanations are kept whole, read back as they were, and belong to one SAE."""

import json
from pathlib import Path
from typing import Any

import pytest

from sae_lightning.core import UserError
from sae_lightning.studies.autointerp.explanations import Explanation, Explanations

HOSTILE = "</script><img src=x onerror=alert(1)> \u202e \x00 \u2028"


def example() -> Explanations:
    said = {
        7: (Explanation("rivers", "a model", {"detection": 0.75}), Explanation('"the" -> [river]', "n2g", {})),
        0: (Explanation(HOSTILE, "a model", {}),),
    }
    return Explanations("abc", said)


def test_read_back_as_written(tmp_path: Path) -> None:
    example().save(tmp_path / "explanations.json")
    read = Explanations.load(tmp_path / "explanations.json", "abc", 8)
    assert {i: list(said) for i, said in read.features.items()} == {
        i: list(said) for i, said in example().features.items()
    }
    first = read.of(7)
    assert first is not None
    assert first.text == "rivers"
    assert read.of(3) is None


def write(path: Path, **changes: Any) -> Path:
    example().save(path)
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"8": []}, "'8' is no feature of this SAE, which has 0 to 7"),
        ({"-1": []}, "is no feature"),
        ({"07": []}, "is no feature"),
        ({"²": []}, "is no feature"),
        ({"1": [{"text": 3, "by": "x", "scores": {}}]}, "must be strings"),
        ({"1": [{"text": "a", "by": "x", "scores": {"d": "NaN"}}]}, "a score is no number"),
        ({"1": [{"text": "a", "by": "x"}]}, "is damaged"),
        ({"1": 5}, "is damaged"),
        ([], "is damaged"),
    ],
)
def test_damage_is_named(tmp_path: Path, features: Any, said: str) -> None:
    path = write(tmp_path / "e.json", features=features)
    with pytest.raises(UserError, match="explanations="):
        Explanations.load(path, "abc", 8)
    with pytest.raises(UserError) as caught:
        Explanations.load(path, "abc", 8)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_saes_and_files_are_refused(tmp_path: Path) -> None:
    example().save(tmp_path / "e.json")
    with pytest.raises(UserError, match="another SAE"):
        Explanations.load(tmp_path / "e.json", "abd", 8)
    with pytest.raises(UserError, match="cannot be read"):
        Explanations.load(tmp_path / "none.json", "abc", 8)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match="is no JSON"):
        Explanations.load(tmp_path / "x.json", "abc", 8)
    (tmp_path / "y.json").write_text('{"17": "a note"}')
    with pytest.raises(UserError, match="no file of explanations"):
        Explanations.load(tmp_path / "y.json", "abc", 8)

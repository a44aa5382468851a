"""What features are said to mean, with how well that was found to hold: a JSON file, by feature."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sae_lightning.core import UserError
from sae_lightning.core.files import write_json

_FORMAT = "sae_lightning explanations 1"


@dataclass(frozen=True)
class Explanation:
    """What one feature means, in words or as patterns, and its scores by name (each in the score's own unit).

    by: what explained it: a language model's name, or n2g.
    """

    text: str
    by: str
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanations:
    """Explanations of one SAE's features.

    sae_sha256: of the SAE (``store.sae_sha256``): explanations are of no other. features: by number; several of one
    feature, from different explainers, the one to show first.
    """

    sae_sha256: str
    features: Mapping[int, tuple[Explanation, ...]]

    def of(self, feature: int) -> Explanation | None:
        """Return what to show of a feature; None where nobody has explained it."""
        said = self.features.get(feature, ())
        return said[0] if said else None

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        features = {str(number): [asdict(one) for one in said] for number, said in sorted(self.features.items())}
        write_json(path, {"format": _FORMAT, "sae_sha256": self.sae_sha256, "features": features})

    @classmethod
    def load(cls, path: str | Path, sae_sha256: str, d_sae: int) -> "Explanations":
        """Read a file of explanations of the SAE with this hash.

        Raises UserError: unreadable, no such file, of another SAE, a feature that the SAE does not have.
        """
        place = Path(path).expanduser()
        try:
            value = json.loads(place.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"explanations={path}: cannot be read ({error.strerror}); give the explanations.json of "
                "python -m sae_lightning.interpret"
            ) from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"explanations={path}: is no JSON ({error}); make it again with interpret") from None
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            raise UserError(f"explanations={path}: is no file of explanations; give what interpret wrote")
        if value.get("sae_sha256") != sae_sha256:
            raise UserError(f"explanations={path}: are of another SAE; interpret this one")
        try:
            features = {
                _number(key, d_sae): tuple(_read(one) for one in said) for key, said in value["features"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"explanations={path}: is damaged ({error}); make it again with interpret") from None
        return cls(sae_sha256, features)


def _number(key: str, d_sae: int) -> int:
    if not (key.isascii() and key.isdecimal() and key == str(int(key)) and int(key) < d_sae):
        raise ValueError(f"{key[:20]!r} is no feature of this SAE, which has 0 to {d_sae - 1}")
    return int(key)


def _read(value: dict[str, Any]) -> Explanation:
    if not isinstance(value["text"], str) or not isinstance(value["by"], str):
        raise TypeError("an explanation's text and by must be strings")
    scores = {str(name): float(score) for name, score in value["scores"].items()}
    if not all(map(math.isfinite, scores.values())):
        raise ValueError("a score is no number")
    return Explanation(value["text"], value["by"], scores)

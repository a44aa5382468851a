"""What is known about a token file: its manifest, a small JSON beside it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sae_lightning.core import UserError, write_json

FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """The JSON beside a token file, written last: a file that has one is complete.

    dtype: "uint16" or "uint32", little-endian. separator: the id that ends every document. positions: ids in the file,
    separators included; tokens: without them. max_token_id: the largest id apart from the separator. source,
    tokenizer_hash, max_tokens: what the file was made of. sha256: of the file.
    """

    dtype: str
    separator: int
    documents: int
    tokens: int
    positions: int
    max_token_id: int
    vocab_size: int
    tokenizer_hash: str
    source: str
    max_tokens: int | None
    sha256: str
    format: int = FORMAT

    def save(self, token_file: Path) -> None:
        write_json(manifest_path(token_file), asdict(self))

    @classmethod
    def load(cls, token_file: Path) -> "Manifest | None":
        """Return the manifest of ``token_file``, None when it has none; UserError when it cannot be read."""
        path = manifest_path(token_file)
        try:
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            manifest = cls(**value)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{path}: is no manifest of a token file ({error}); make the token file again, "
                "or delete the manifest and give data.dtype and data.separator"
            ) from error
        if manifest.format != FORMAT:
            raise UserError(f"{path}: format {manifest.format}, this version reads {FORMAT}; make the token file again")
        return manifest


def manifest_path(token_file: Path) -> Path:
    return token_file.with_name(token_file.name + ".json")


def offsets_path(token_file: Path) -> Path:
    return token_file.with_name(token_file.name + ".offsets.npy")


def hashes_path(token_file: Path) -> Path:
    return token_file.with_name(token_file.name + ".hashes.npy")

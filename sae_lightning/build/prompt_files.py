"""Prompts from a file: a text file with one a line, or jsonl with a text in each line."""

import json
from pathlib import Path

from sae_lightning.core import UserError


def read_prompts_file(path: str, name: str) -> list[str]:
    """Return the prompts of a file, each once, without empty lines. name: of the setting.

    Raises UserError: unreadable, no UTF-8, no prompt in it, a line of jsonl that has no text, a document of JSON.
    """
    place = Path(path).expanduser()
    if place.suffix == ".json":
        raise UserError(f"{name}={path}: is JSON, not one prompt a line; write a text file or jsonl")
    try:
        lines = place.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{name}={path}: cannot be read ({error.strerror}); give a text file or jsonl") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name}={path}: is no UTF-8 ({error.reason}); save it as UTF-8") from None
    if place.suffix in (".jsonl", ".ndjson"):
        lines = [_text(line, f"{name}={path}: line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    found = list(dict.fromkeys(line.rstrip("\r") for line in lines if line.strip()))
    if not found:
        raise UserError(f"{name}={path}: has no prompt in it; write one a line")
    return found


def _text(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f'{where}: is no JSON; write {{"text": "..."}}') from None
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise UserError(f'{where}: has no text; write {{"text": "..."}}')
    return text

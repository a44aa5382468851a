"""Loads a Hugging Face language model from a folder, the hub's cache or the hub, and says in one line what is wrong."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_lightning.core import UserError
from sae_lightning.lm.quiet import quiet_libraries
from sae_lightning.tokens.hub import hub_reachable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

EMBEDDED_HINT = "or use the embedded language model, lm=smollm2, which needs no hub"
_TIMEOUT_SECONDS = 5.0


def load_pretrained(
    name: str, revision: str | None, dtype: torch.dtype, device: str | dict[str, Any], *, spread: bool = False
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase, Path, str | None]":
    """Return (model, tokenizer, folder of the weights, revision) for a local folder or a hub name.

    A hub name that is in the local cache is loaded from there without asking the network; the revision returned is
    the commit. Attention is eager: the hooks need it, and it is exact whoever else loads the weights.
    spread: ``device`` is a device map.
    """
    quiet_libraries()
    folder, commit = model_folder(name, revision)
    return *_from_folder(folder, name, dtype, device, spread), folder, commit


def model_folder(name: str, revision: str | None) -> tuple[Path, str | None]:
    """Return (folder, commit) of a local folder or a hub name, fetching what the cache lacks."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return folder, revision
    if folder.is_absolute() or name.startswith((".", "~")) or folder.exists():
        raise UserError(f"lm.name={name!r}: there is no such folder; give a folder with config.json, {EMBEDDED_HINT}")
    return _snapshot(name, revision)


def read_tokenizer(folder: Path, name: str) -> "PreTrainedTokenizerBase":
    """Return the tokenizer in a model's folder."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # any library's complaint about the user's files
        raise UserError(
            f"lm.name={name!r}: its tokenizer can't be loaded ({error}); add the tokenizer's files"
        ) from error


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(
            f"lm.name={str(folder)!r}: the folder has no config.json; give a folder that save_pretrained wrote, "
            f"{EMBEDDED_HINT}"
        )


def _from_folder(
    folder: Path, name: str, dtype: torch.dtype, device: str | dict[str, Any], spread: bool
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    from transformers import AutoModelForCausalLM

    tokenizer = read_tokenizer(folder, name)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="eager",
            local_files_only=True,
            **({"device_map": device} if spread else {}),
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise UserError(
            f"lm.name={name!r}: its weights can't be loaded ({error}); fetch or convert them again"
        ) from error
    if spread:
        return model, tokenizer
    return model.to(device), tokenizer  # pyright: ignore[reportArgumentType] - its decorator loses self


def _snapshot(name: str, revision: str | None) -> tuple[Path, str | None]:
    """Return the folder and commit of a hub model, from the cache when it is whole there, else downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, revision=revision, local_files_only=True))
        if (cached / "config.json").exists() and _whole(cached):
            return cached, cached.name
    except (LocalEntryNotFoundError, FileNotFoundError):
        pass
    except HFValidationError as error:
        raise UserError(
            f"lm.name={name!r}: neither a folder nor a hub name ({error}); check it, {EMBEDDED_HINT}"
        ) from error
    files = _listing(name, revision)
    weights = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "*.bin"
    logger.info("downloading %s from the hub", name)
    try:
        # Root-level patterns would also match subfolders with other formats of the same weights.
        folder = snapshot_download(
            name, revision=revision, allow_patterns=["*.json", "*.txt", "*.model", weights], ignore_patterns=["*/*"]
        )
    except Exception as error:
        raise UserError(f"lm.name={name!r}: the download failed ({error}); try again, {EMBEDDED_HINT}") from error
    return Path(folder), Path(folder).name


def _whole(folder: Path) -> bool:
    """Whether the weights that the folder's index names (or a single file) are all there."""
    import json

    for index in folder.glob("*.index.json"):
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return all((folder / file).exists() for file in names)
    return any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def _listing(name: str, revision: str | None) -> list[str]:
    """Return the hub's files of ``name``; one short question first, because a download retries for a minute."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    unreachable = UserError(
        f"lm.name={name!r}: not in the local cache, and the hub can't be reached; connect, give a local folder, "
        f"{EMBEDDED_HINT}"
    )
    if not hub_reachable(_TIMEOUT_SECONDS):
        raise unreachable
    try:
        info: Any = huggingface_hub.HfApi().model_info(name, revision=revision, timeout=_TIMEOUT_SECONDS)
    except GatedRepoError as error:
        raise UserError(
            f"lm.name={name!r}: the model is gated; accept its licence on the hub and set HF_TOKEN, {EMBEDDED_HINT}"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"lm.revision={revision!r}: {name} has no such revision; leave it out for the newest"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"lm.name={name!r}: the hub has no such model, nor is it a folder; check it, {EMBEDDED_HINT}"
        ) from error
    except Exception as error:
        raise unreachable from error
    return [str(file.rfilename) for file in info.siblings or []]

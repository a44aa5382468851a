"""An SAE as a folder: ``config.json`` (what it is) and ``sae.safetensors`` (its numbers)."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, ValidationError, create_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_lightning.core import UserError, atomic_path, file_sha256, write_json
from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.metadata import check_metadata
from sae_lightning.sae.registry import sae_class
from sae_lightning.sae.sample import check, measure, pack, unpack
from sae_lightning.sae.sharding import is_cut, write_whole

CONFIG, WEIGHTS = "config.json", "sae.safetensors"
FORMAT, VERSION = "sae_lightning", 1


def save_sae(
    folder: str | Path,
    sae: SparseAutoencoder,
    metadata: Mapping[str, Any] | None = None,
    sample: Tensor | tuple[Tensor, Tensor] | None = None,
) -> Path:
    """Write ``sae`` to ``folder`` and return it. metadata: plain values that JSON holds; default ``sae.metadata``.

    sample: some raw rows x [n, d_in], or (x, y), that are stored with it; what the SAE measures on them is recorded,
    and ``load_sae`` measures again (see ``sae.sample``). None stores the one that ``sae`` was loaded with, if any.

    Weights are stored as float32, thresholds as float64. Each file is whole or absent; the config carries the SHA-256
    of the weights, so that a config beside weights of another save is noticed. Of an SAE that several processes share
    (``sae.sharding``) all of them call this, and the first writes what they send it, piece by piece. Raises UserError
    for metadata of another form (see ``sae.metadata``) and where the folder can't be written.
    """
    folder = Path(folder)
    metadata = dict(sae.metadata if metadata is None else metadata)
    # What JSON has no word for is refused before anything is written.
    json.dumps(metadata, allow_nan=False)
    check_metadata(metadata, f"SAE folder {folder}", "set it to such a value")
    rows = sae.sample if sample is None else sample
    packed, recorded = {}, None
    if rows is not None:
        x, y = (rows, rows) if isinstance(rows, Tensor) else rows
        packed = pack(x, None if y is x else y)
        recorded = {"rows": len(x), **measure(sae, x, y)}
    ranks = sae.execution.feature_ranks
    try:
        if ranks.rank > 0:
            write_whole(None, sae, packed, _stored_dtypes(sae))
            ranks.wait()
            return folder
        with atomic_path(folder / WEIGHTS) as temporary:
            if is_cut(sae):
                write_whole(temporary, sae, packed, _stored_dtypes(sae))
            else:
                save_file(_stored(sae) | packed, str(temporary))
        config = {
            "format": FORMAT,
            "version": VERSION,
            "architecture": sae.name,
            "options": sae.options(),
            "progress": sae.progress,
            "weights_sha256": file_sha256(folder / WEIGHTS),
            "sample": recorded,
            "metadata": metadata,
        }
        write_json(folder / CONFIG, config)
        ranks.wait()
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"SAE folder {folder}: can't be written ({error}); free space or choose another folder"
        ) from error
    return folder


def _stored_dtypes(sae: SparseAutoencoder) -> dict[str, torch.dtype]:
    wide = {name: torch.float64 if name in sae.keep_dtype else torch.float32 for name in sae.state_dict()}
    return {n: wide[n] if tensor.is_floating_point() else tensor.dtype for n, tensor in sae.state_dict().items()}


def _stored(sae: SparseAutoencoder) -> dict[str, Tensor]:
    dtypes = _stored_dtypes(sae)
    return {n: tensor.detach().to(dtypes[n]).cpu().contiguous() for n, tensor in sae.state_dict().items()}


def load_sae(path: str | Path, device: str | torch.device = "cpu") -> SparseAutoencoder:
    """Return the SAE saved in ``path`` (its folder, or a run folder with ``export/`` inside) in eval mode.

    ``.metadata`` is what was saved beside it. Raises UserError, naming file and remedy, for files that are missing,
    torn, corrupt, not finite, of another save than each other, or of an unknown architecture, and for an SAE that does
    not measure on its stored sample what was recorded. ``.sample`` is that sample, (x, y), or None.
    """
    folder = _folder(Path(path))
    config = _read_config(folder / CONFIG)
    sae = _construct(config, folder / CONFIG)
    tensors = _read_weights(folder / WEIGHTS, config["weights_sha256"])
    sample = unpack(tensors)
    _check(tensors, sae, folder)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and name not in sae.keep_dtype:
            tensors[name] = tensor.float()
    # By feature in memory, as an SAE's own: see SparseAutoencoder.
    tensors["W_enc"] = tensors["W_enc"].t().contiguous().t()
    sae.load_state_dict(tensors, assign=True)
    sae.set_progress(float(config["progress"]))
    sae.metadata = config["metadata"]
    sae = sae.to(device).eval()
    if sample is not None:
        sae.sample = sample
        check(sae, sample, config.get("sample") or {}, folder)
    return sae


def _folder(path: Path) -> Path:
    for folder in (path, path / "export"):
        if (folder / CONFIG).is_file():
            return folder
    if not path.exists():
        raise UserError(f"SAE {path}: no such folder; give an export folder or a run folder that holds export/")
    raise UserError(
        f"SAE {path}: holds no {CONFIG} and no export/{CONFIG}; give an export folder or a finished run's folder"
    )


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: can't be read as JSON ({error}); export the SAE again") from error
    kinds = {"architecture": str, "options": dict, "progress": int | float, "weights_sha256": str, "metadata": dict}
    kinds["sample"] = dict | None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(
            f'{file}: no SAE of this package (needs "format": "{FORMAT}"); convert it, or give another folder'
        )
    if config.get("version") != VERSION:
        raise UserError(
            f"{file}: version {config.get('version')!r}, but this package reads {VERSION}; update the package"
        )
    for key, kind in kinds.items():
        if not isinstance(config.get(key), kind):
            raise UserError(f"{file}: {key}={config.get(key)!r} is missing or of the wrong type; export the SAE again")
    if isinstance(config["progress"], bool) or not 0 <= config["progress"] <= 1:
        raise UserError(f"{file}: progress={config['progress']!r}: must lie between 0 and 1; export the SAE again")
    check_metadata(config["metadata"], file)
    return config


def _construct(config: dict[str, Any], file: Path) -> SparseAutoencoder:
    # JSON has lists only; constructors that take several numbers take tuples.
    options: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in config["options"].items()}
    try:
        kind = sae_class(config["architecture"])
        _check_options(kind, options)
        with torch.device("meta"):
            return kind(**options)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"{file}: {error}; export the SAE again") from error


def _check_options(kind: type[SparseAutoencoder], options: Mapping[str, Any]) -> None:
    """Raise UserError for an option of another type than the constructor says."""
    known = inspect.signature(kind).parameters
    fields: dict[str, Any] = {
        name: (known[name].annotation, ...)
        for name in options
        if name in known and known[name].annotation is not inspect.Parameter.empty
    }
    model = create_model("Options", __config__=ConfigDict(arbitrary_types_allowed=True, strict=True), **fields)
    try:
        model.model_validate({name: options[name] for name in fields})
    except ValidationError as error:
        first = error.errors()[0]
        rule = first["msg"][0].lower() + first["msg"][1:]
        raise UserError(f"options.{first['loc'][0]}={options[str(first['loc'][0])]!r}: {rule}") from None


def _read_weights(file: Path, sha256: str) -> dict[str, Tensor]:
    if not file.is_file():
        raise UserError(f"{file}: is missing beside its {CONFIG}; export the SAE again")
    try:
        tensors = load_file(str(file))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: torn or not a safetensors file ({error}); export the SAE again") from error
    if file_sha256(file) != sha256:
        raise UserError(f"{file}: corrupt, or of another save than {CONFIG} (SHA-256 differs); export the SAE again")
    return tensors


def _check(tensors: dict[str, Tensor], sae: SparseAutoencoder, folder: Path) -> None:
    expected = sae.state_dict()
    if tensors.keys() != expected.keys():
        wrong = ", ".join(sorted(tensors.keys() ^ expected.keys()))
        raise UserError(f"{folder / WEIGHTS}: tensors of another architecture than {sae.name!r} (differ in {wrong})")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{folder / WEIGHTS}: {name} has shape {list(tensor.shape)}, but {CONFIG} says "
                f"{list(expected[name].shape)}; the two files contradict each other: export the SAE again"
            )
        if tensor.is_floating_point() != expected[name].is_floating_point():
            raise UserError(
                f"{folder / WEIGHTS}: {name} holds {tensor.dtype}, not {expected[name].dtype}; export the SAE again"
            )
        if not torch.isfinite(tensor).all():
            raise UserError(f"{folder / WEIGHTS}: {name} holds NaN or infinity; export an SAE from a good checkpoint")

"""One SAE in several processes: each holds some of its features, and nobody ever all of them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO

import torch
from torch import Tensor, nn

from sae_lightning.core import Ranks, UserError
from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.topk import TopKSAE

#: Bytes of a tensor that travel to the process that writes, and are held there, at a time.
_PIECE = 16 << 20
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.bool: "BOOL",
}


def cut(sae: SparseAutoencoder, ranks: Ranks, device: torch.device | str = "cpu") -> None:
    """Make ``sae``, in place, the part of it that process ``ranks.rank`` of ``ranks.world`` holds, not yet trained.

    It has the features ``[first, first + width)`` with ``width = d_sae / world``: their columns of W_enc, their rows of
    W_dec, their biases and thresholds; ``b_dec``, ``W_skip`` and inference thresholds are everybody's. ``sae`` may lie
    on the meta device, so that the whole is never in memory. With one process nothing is cut.

    Raises UserError where the features, or a top-k's groups of features, cannot be dealt out evenly.
    """
    width, rest = divmod(sae.d_sae, ranks.world)
    if rest:
        raise UserError(
            f"sae.d_sae={sae.d_sae} with trainer.strategy=model_parallel in {ranks.world} processes: must be a "
            f"multiple of {ranks.world}; take sae.d_sae={(width + 1) * ranks.world}"
        )
    if isinstance(sae, TopKSAE) and sae.selection == "group_max" and width % (sae.d_sae // sae.k):
        raise UserError(
            f"sae.selection=group_max with sae.k={sae.k} in {ranks.world} processes: groups must not be cut; choose "
            f"a multiple of {ranks.world} for sae.k"
        )
    for name, parameter in list(sae.named_parameters()):
        dim = feature_dim(sae, name)
        shape = [width if i == dim else size for i, size in enumerate(parameter.shape)]
        # W_enc lies by feature: see SparseAutoencoder.
        value = torch.zeros(shape[::-1] if dim == 1 else shape, dtype=parameter.dtype, device=device)
        setattr(sae, name, nn.Parameter(value.t() if dim == 1 else value))
    for name, buffer in list(sae.named_buffers()):
        sae.register_buffer(name, torch.zeros(buffer.shape, dtype=buffer.dtype, device=device))
    sae.first, sae.width = ranks.rank * width, width
    sae.start_thresholds_()
    sae.execution.ranks, sae.execution.sharded = ranks, not ranks.alone


def feature_dim(sae: SparseAutoencoder, name: str) -> int | None:
    """Return along which dimension of the parameter or buffer ``name`` features lie, None where they lie along none."""
    if name in sae.without_features or name not in dict(sae.named_parameters()):
        return None
    return 1 if name == "W_enc" else 0


def part_of(sae: SparseAutoencoder, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what ``sae`` holds of the state of a whole SAE like it; all of it where it has not been cut."""
    dims = {name: feature_dim(sae, name) for name in state}
    return {n: v if (dim := dims[n]) is None else v.narrow(dim, sae.first, sae.width) for n, v in state.items()}


def is_cut(sae: SparseAutoencoder) -> bool:
    """Return whether other processes hold other features of this SAE."""
    return sae.width < sae.d_sae


def write_whole(
    file: Path | None, sae: SparseAutoencoder, extra: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]
) -> None:
    """Write the state of an SAE that has been cut as one safetensors file, a piece at a time (a collective).

    file: on the rank that writes (0), None elsewhere. extra: more tensors of that rank. dtypes: of each of the SAE's.
    No process holds more than its own part and a few pieces of 16 MiB. The format is a header, which says where each
    tensor lies, and then their numbers in C order: https://huggingface.co/docs/safetensors.
    """
    ranks, state = sae.execution.feature_ranks, sae.state_dict()
    whole = {name: _whole_shape(sae, name, tensor) for name, tensor in state.items()}
    sizes = [(name, whole[name], dtypes[name]) for name in state]
    sizes += [(name, list(tensor.shape), tensor.dtype) for name, tensor in extra.items()]
    header, begins = _header(sizes)
    with open(file, "wb") if file is not None else nullcontext() as out:
        if out is not None:
            out.write(header)
        for name, tensor in state.items():
            for at, piece in _pieces(tensor.detach(), feature_dim(sae, name), dtypes[name], ranks):
                _write(out, begins[name] + at, piece)
        for name, tensor in extra.items():
            _write(out, begins[name], tensor.detach().cpu())


def _pieces(value: Tensor, dim: int | None, dtype: torch.dtype, ranks: Ranks) -> Iterator[tuple[int, Tensor]]:
    """Yield (place in bytes, numbers) of pieces of the whole tensor, of which each rank has a part along ``dim``."""
    if dim is None:
        yield 0, value.to(dtype)
        return
    row_bytes = value.numel() // len(value) * dtype.itemsize
    rows = max(1, _PIECE // row_bytes)
    for first in range(0, len(value), rows):
        every = ranks.stack(value[first : first + rows].to(dtype))
        if dim == 1:
            yield first * row_bytes * ranks.world, torch.cat(list(every), 1)
            continue
        for rank, piece in enumerate(every):
            yield (rank * len(value) + first) * row_bytes, piece


def _write(out: IO[bytes] | None, at: int, value: Tensor) -> None:
    if out is not None:
        out.seek(at)
        out.write(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _whole_shape(sae: SparseAutoencoder, name: str, tensor: Tensor) -> list[int]:
    dim = feature_dim(sae, name)
    return [sae.d_sae if i == dim else size for i, size in enumerate(tensor.shape)]


def _header(sizes: list[tuple[str, list[int], torch.dtype]]) -> tuple[bytes, dict[str, int]]:
    """Return what a safetensors file begins with, and where in the file each tensor does."""
    entries, end = {}, 0
    for name, shape, dtype in sizes:
        begin, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        entries[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return head, {name: len(head) + entry["data_offsets"][0] for name, entry in entries.items()}

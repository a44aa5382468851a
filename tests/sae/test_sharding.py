import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lightning.activations import Normaliser
from sae_lightning.core import Ranks, UserError
from sae_lightning.sae import BatchTopKSAE, SparseAutoencoder, TopKSAE, fold, initialise, load_sae, sae_class, save_sae
from sae_lightning.sae.init import _drawn
from sae_lightning.sae.sharding import cut, feature_dim
from tests.sae.naive_sae import ARCHITECTURES, OPTIONS
from tests.together import together

D, D_SAE = 11, 40
SCHEMES = ("tied", "kaiming", "kaiming_transpose", "datapoint", "zero_decoder")


def rows(n: int = 24) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(0)) + 1


def started(name: str, ranks: Ranks | None = None, scheme: Any = None, **options: Any) -> SparseAutoencoder:
    with torch.device("cpu" if ranks is None else "meta"):
        sae = sae_class(name)(D, D_SAE, **(OPTIONS[name] | options))
    if ranks is not None:
        cut(sae, ranks)
    initialise(sae, rows(), scheme=scheme, seed=3)
    return sae


def state_of(sae: SparseAutoencoder) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in sae.state_dict().items()}


def folded(sae: SparseAutoencoder) -> SparseAutoencoder:
    normaliser = Normaliser.fit(rows(), "sqrt_d", True)
    if isinstance(sae, BatchTopKSAE):
        sae.calibrate_threshold([normaliser.apply(rows())], 3.0)
    return fold(sae, normaliser)


def start_and_save(ranks: Ranks, folder: str) -> dict[str, Any]:
    out: dict[str, Any] = {scheme: state_of(started("topk", ranks, scheme)) for scheme in SCHEMES}
    for name in ARCHITECTURES:
        sae = started(name, ranks)
        out[name] = state_of(sae)
        save_sae(f"{folder}/{name}", folded(sae), sample=rows())
    return out


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("cut")
    return folder, together(start_and_save, 2, str(folder))


@pytest.mark.parametrize("what", [*SCHEMES, *ARCHITECTURES])
def test_each_process_starts_with_its_part_of_the_same_weights(what: str, two: tuple[Path, list[dict[str, Any]]]):
    whole = started("topk", scheme=what) if what in SCHEMES else started(what)
    for name, value in state_of(whole).items():
        dim, parts = feature_dim(whole, name), [rank[what][name] for rank in two[1]]
        found = parts[0] if dim is None else torch.cat(parts, dim)
        torch.testing.assert_close(found, value, rtol=1e-6, atol=0, msg=name)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_export_of_two_processes_is_that_of_one(
    name: str, two: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    whole = folded(started(name))
    save_sae(tmp_path, whole, sample=rows())
    a, b = load_sae(tmp_path), load_sae(two[0] / name)
    for key, value in a.state_dict().items():
        torch.testing.assert_close(b.state_dict()[key], value, rtol=1e-5, atol=1e-6, msg=key)
    assert (b.options(), b.metadata) == (a.options(), a.metadata)
    recorded, other = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, two[0] / name))
    assert other["sample"] == pytest.approx(recorded["sample"], rel=1e-5)
    torch.testing.assert_close(b(rows()).y_hat, whole(rows()).y_hat)


def test_the_file_is_laid_out_as_safetensors_asks(two: tuple[Path, list[dict[str, Any]]]) -> None:
    raw = (two[0] / "jumprelu" / "sae.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    assert (8 + length) % 8 == 0
    ends = sorted(entry["data_offsets"] for entry in header.values())
    assert [begin for begin, _ in ends] == [0, *(end for _, end in ends[:-1])]
    assert 8 + length + ends[-1][1] == len(raw)
    begin, end = header["W_enc"]["data_offsets"]
    stored = torch.frombuffer(bytearray(raw[8 + length + begin : 8 + length + end]), dtype=torch.float32)
    assert torch.equal(stored.view(header["W_enc"]["shape"]), load_sae(two[0] / "jumprelu").W_enc)


@pytest.mark.parametrize("draw", [torch.randn, torch.rand])
@pytest.mark.parametrize(("d_sae", "d"), [(40, 3), (4096 + 20, 5), (3 * 4096 - 10, 1), (2 * 4096, 3), (30, 1)])
def test_draws_of_some_rows_are_rows_of_the_whole_draw(draw: Any, d_sae: int, d: int) -> None:
    whole = draw(d_sae, d, generator=torch.Generator().manual_seed(7))
    with torch.device("meta"):
        sae = sae_class("standard")(d, d_sae)
    cut(sae, Ranks(1, 2))
    found = _drawn(draw, sae, d, torch.Generator().manual_seed(7))
    assert torch.equal(found, whole[d_sae // 2 :])


def test_a_part_knows_the_whole() -> None:
    sae = sae_class("matryoshka")(D, D_SAE, **OPTIONS["matryoshka"])
    before = sae.n_parameters, sae.options()
    cut(sae, Ranks(1, 2))
    assert (sae.n_parameters, sae.options()) == before
    assert (sae.first, sae.width, sae.W_enc.shape, sae.W_enc.t().is_contiguous()) == (20, 20, (D, 20), True)


def test_what_cannot_be_dealt_out_evenly_is_refused() -> None:
    with pytest.raises(UserError, match=r"sae.d_sae=40 .*multiple of 3; take sae.d_sae=42"):
        cut(sae_class("standard")(D, D_SAE), Ranks(0, 3))
    with pytest.raises(UserError, match=r"group_max .* must not be cut"):
        cut(TopKSAE(D, D_SAE, k=5, selection="group_max"), Ranks(0, 2))

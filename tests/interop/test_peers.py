"""Against the libraries themselves: what we write they load, what they train we read, and both compute the same.

Each library's jobs run in one process of its own environment; the comparison is here, on float32 rows.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_lightning.sae import SparseAutoencoder, formats
from tests.conftest import planted
from tests.interop.peer_kinds import SITES_READ, TRAINED
from tests.sae.formats.cases import HELD, make, rows

OUT = [(library, case) for library, held in HELD.items() if library in TRAINED for case in held]
IN = [(library, kind) for library, kinds in TRAINED.items() for kind in kinds]
D = 16


@pytest.fixture(scope="module")
def written(tmp_path_factory, peers):
    """Every case of every format, written by us and run by its library."""
    root = tmp_path_factory.mktemp("out")
    np.save(root / "rows.npy", rows(400).numpy())
    jobs = []
    for library, case in OUT:
        folder = root / library / case.replace(" ", "_")
        formats.write(library, make(**HELD[library][case]), folder, rows(400))
        job = {"library": library, "action": "load", "folder": str(folder)}
        jobs.append({**job, "rows": str(root / "rows.npy"), "out": f"{folder}.npz"})
    peers(root, jobs)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory, peers):
    """Every kind of SAE that a library trains, trained and saved by it."""
    root = tmp_path_factory.mktemp("in")
    x = torch.from_numpy(planted(4000, d=D, n_true=40, p=0.06, shift=0.3)[0])
    np.save(root / "train.npy", x[:3600].numpy())
    np.save(root / "rows.npy", x[3600:].numpy())
    jobs = []
    for library, kind in IN:
        folder = root / library / kind
        folder.parent.mkdir(exist_ok=True)
        job = {"library": library, "action": "train", "kind": kind, "folder": str(folder), "out": f"{folder}.npz"}
        jobs.append({**job, "rows": str(root / "rows.npy"), "train": str(root / "train.npy")})
    peers(root, jobs)
    return root


def computed(file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """What the library made of the rows: features and reconstructions."""
    with np.load(file) as found:
        assert "error" not in found, str(found["error"])
        return torch.from_numpy(found["features"]), torch.from_numpy(found["output"])


def same(sae: SparseAutoencoder, x: torch.Tensor, features: torch.Tensor, output: torch.Tensor) -> None:
    with torch.no_grad():
        ours = sae(x)
    scale = float(features[features != 0].square().mean().sqrt())
    assert float((ours.features.dense() - features).abs().max()) <= 1e-5 * max(1, scale)
    assert float((ours.y_hat - output).abs().max()) <= 1e-5 * max(1, float(output.square().mean().sqrt()))


@pytest.mark.parametrize(("library", "case"), OUT)
def test_what_we_write_their_loader_takes(library, case, written):
    sae, x = make(**HELD[library][case]), torch.from_numpy(np.load(written / "rows.npy"))
    features, output = computed(written / library / f"{case.replace(' ', '_')}.npz")
    same(sae, x, features, output)
    # Not trivially so: features fire, and not all of them.
    assert 0.02 < float((features != 0).float().mean()) < 0.9


@pytest.mark.parametrize(("library", "kind"), IN)
def test_what_they_train_we_read(library, kind, trained):
    x = torch.from_numpy(np.load(trained / "rows.npy"))
    features, output = computed(trained / library / f"{kind}.npz")
    sae = formats.read(trained / library / kind)
    same(sae, x, features, output)
    assert 0.01 < float((features != 0).float().mean()) < 0.9
    assert sae.metadata["source"]["format"] == library
    assert (sae.metadata["sites"] or {}).get("read") == SITES_READ.get((library, kind), SITES_READ[library])
    if library != "sparsify" and "transcoder" not in kind:
        assert sae.metadata["lm"]["name"] == "gpt2"


@pytest.mark.parametrize(("library", "kind"), IN)
def test_theirs_goes_through_our_own_format(library, kind, trained, tmp_path):
    sae = formats.read(trained / library / kind)
    x = torch.from_numpy(np.load(trained / "rows.npy"))
    back = formats.read(formats.write("sae_lightning", sae, tmp_path / "ours"))
    assert torch.equal(back(x).y_hat, sae(x).y_hat)
    assert back.metadata == sae.metadata

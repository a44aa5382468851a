"""``evaluate sae=[A,B]``, as a user runs it: differences, the page, and SAEs that can't be compared."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_lightning.core import torch_generator
from sae_lightning.sae import StandardSAE, save_sae
from tests.conftest import Command, planted
from tests.reports.reader import Reader

D = 16


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.npy"
    np.save(path, planted(128 * 24, d=D, n_true=32, p=0.1)[0])
    return path


def export(folder: Path, noise: float, d: int = D) -> Path:
    """Write an SAE that passes its input on, but for noise in the decoder."""
    sae = StandardSAE(d, 2 * d)
    eye = torch.cat([torch.eye(d), -torch.eye(d)], 1)
    with torch.no_grad():
        sae.W_enc.copy_(eye)
        sae.W_dec.copy_(eye.T + noise * torch.randn(2 * d, d, generator=torch_generator(0)))
    save_sae(folder, sae)
    return folder


def arguments(rows: Path) -> list[str]:
    return ["lm=none", "data=activations", f"data.path={rows}", "tokens=2048", "out=out"]


def test_two_saes_side_by_side(command: Command, rows: Path, tmp_path: Path) -> None:
    good, bad, twin = (export(tmp_path / name, noise) for name, noise in (("good", 0.1), ("bad", 0.12), ("twin", 0.1)))
    done = command(
        "evaluate", f"sae=[{good},{bad},{twin}]", "studies=[reconstruction,sparsity,compare]", *arguments(rows)
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    table = found["comparisons"]["compare"]["tables"]["differences"]
    verdicts = {}
    for row in table["rows"]:
        one = dict(zip(table["columns"], row, strict=True))
        verdicts[one["metric"], one["a"], one["b"]] = one["verdict"]
    assert verdicts["fvu", "good", "bad"] == "good better"
    assert verdicts["fvu", "bad", "twin"] == "twin better"
    assert verdicts["fvu", "good", "twin"] == verdicts["l0", "good", "bad"] == "indistinguishable"
    (fvu,) = [line for line in done.stdout.splitlines() if line.startswith("│ fvu ")]
    assert fvu.count("≈ best") == 2
    page = Reader((tmp_path / "out" / "evaluation.html").read_text())
    assert page.open == []
    assert "good better" in page.text
    assert str(tmp_path) not in page.text


def test_saes_of_different_widths_are_refused_in_one_line(command: Command, rows: Path, tmp_path: Path) -> None:
    one, other = export(tmp_path / "one", 0.1), export(tmp_path / "other", 0.1, d=8)
    done = command("evaluate", f"sae=[{one},{other}]", "studies=[reconstruction,compare]", *arguments(rows))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "width 8" in done.stderr
    assert not (tmp_path / "out").exists()

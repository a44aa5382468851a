"""The stored sample: an SAE that does not measure what its export says is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sae_lightning.core import UserError, torch_generator
from sae_lightning.sae import SparseAutoencoder, load_sae, save_sae
from tests.sae.naive_sae import ARCHITECTURES, build


def rows(n: int = 300, d: int = 12) -> torch.Tensor:
    return torch.randn(n, d, generator=torch_generator(4, "sample"))


def trained(name: str, x: torch.Tensor) -> SparseAutoencoder:
    sae = build(name)
    if hasattr(sae, "threshold"):
        sae.calibrate_threshold([x], 4.0)  # pyright: ignore[reportCallIssue]
    return sae.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_recorded_is_what_it_measures(name: str, tmp_path: Path) -> None:
    x = rows()
    sae = trained(name, x)
    recorded = json.loads((save_sae(tmp_path, sae, sample=x) / "config.json").read_text())["sample"]
    with torch.no_grad():
        out = sae(x)
    error = (out.y_hat - x).double().square().sum() / (x.double() - x.double().mean(0)).square().sum()
    assert recorded["rows"] == 300
    assert recorded["fvu"] == pytest.approx(float(error), rel=1e-6)
    assert recorded["l0"] == pytest.approx(float(out.features.l0().double().mean()))
    loaded = load_sae(tmp_path)
    assert loaded.sample is not None
    assert torch.equal(loaded.sample[0], x)
    assert loaded.state_dict().keys() == sae.state_dict().keys()


def test_bfloat16_rows_take_half_the_space(tmp_path: Path) -> None:
    x = rows().bfloat16().float()
    save_sae(tmp_path, trained("topk", x), sample=x)
    assert load_file(str(tmp_path / "sae.safetensors"))["sample.x"].dtype == torch.bfloat16
    sample = load_sae(tmp_path).sample
    assert sample is not None
    assert torch.equal(sample[0], x)


def test_a_transcoder_has_its_targets(tmp_path: Path) -> None:
    x, y = rows(), rows(300, 7)
    save_sae(tmp_path, build("topk", d_out=7).eval(), sample=(x, y))
    sample = load_sae(tmp_path).sample
    assert sample is not None
    assert torch.equal(sample[1], y)


def test_a_loaded_sae_keeps_its_sample_when_saved_again(tmp_path: Path) -> None:
    save_sae(tmp_path / "a", trained("topk", rows()), sample=rows())
    save_sae(tmp_path / "b", load_sae(tmp_path / "a"))
    assert load_sae(tmp_path / "b").sample is not None


@pytest.mark.parametrize(
    "change", [{"k": 2}, {"selection": "abs_topk"}, {"subtract_b_dec": False}, {"rescale_acts_by_decoder_norm": True}]
)
def test_a_changed_setting_is_noticed(change: dict[str, object], tmp_path: Path) -> None:
    sae = trained("topk", rows())
    with torch.no_grad():
        sae.b_dec.copy_(torch.linspace(-1, 1, 12))
    save_sae(tmp_path, sae, sample=rows())
    config = json.loads((tmp_path / "config.json").read_text())
    config["options"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"stored with this SAE.*export it again"):
        load_sae(tmp_path)


@pytest.mark.parametrize("said", [None, {}, {"l0": "many", "fvu": 0.1}, {"l0": 4.0}, {"l0": 4.0, "fvu": float(9)}])
def test_a_missing_or_strange_record_is_refused(said: object, tmp_path: Path) -> None:
    save_sae(tmp_path, trained("topk", rows()), sample=rows())
    config = json.loads((tmp_path / "config.json").read_text())
    config["sample"] = said
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="was recorded"):
        load_sae(tmp_path)


def test_two_percent_are_let_pass(tmp_path: Path) -> None:
    save_sae(tmp_path, trained("topk", rows()), sample=rows())
    config = json.loads((tmp_path / "config.json").read_text())
    fvu = config["sample"]["fvu"]
    for factor, fine in ((1.019, True), (0.985, True), (1.03, False), (0.97, False)):
        config["sample"]["fvu"] = fvu * factor
        (tmp_path / "config.json").write_text(json.dumps(config))
        if fine:
            load_sae(tmp_path)
        else:
            with pytest.raises(UserError, match="fvu"):
                load_sae(tmp_path)

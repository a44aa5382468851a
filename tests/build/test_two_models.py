"""Two planted models from the command line: trained as a crosscoder, exported, asked which features they share."""

import json
from pathlib import Path

from sae_lightning import command as hydra_command
from sae_lightning.build import build_data
from sae_lightning.build.names import run_name
from sae_lightning.config import validate
from sae_lightning.sae import StandardSAE, load_sae, save_sae
from tests.activations.synthetic.small import small
from tests.conftest import Command

SMALL = ["data.synthetic.shared=24", "data.synthetic.base_only=8", "data.synthetic.tuned_only=8"]
SMALL += ["data.synthetic.firing_probability.max_prob=0.15", "data.synthetic.firing_probability.min_prob=0.05"]
SMALL += ["data.synthetic.width=32", "data.batch_size=256", "sae.d_sae=40", "tokens=100000", "evaluation.tokens=512"]


def test_its_rows_are_two_sites_side_by_side() -> None:
    config = validate(hydra_command.plain(hydra_command.compose("train", ["data=two_models", *SMALL])))
    assert config.lm is None
    assert run_name(config).startswith("synthetic_rows")
    data = build_data(config)
    assert data.layout.crosses
    assert not data.layout.transcodes
    assert data.layout.widths_out == (32, 32)
    assert data.metadata["sites"] == {
        "read": ["base/rows", "tuned/rows"],
        "write": ["base/rows", "tuned/rows"],
        "widths": [32, 32],
        "widths_out": [32, 32],
    }


def test_a_crosscoder_of_it_tells_whose_features_are_whose(command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = command("train", "data=two_models", *SMALL, "sae.k=3", f"paths.run_dir={run}")
    assert done.returncode == 0, done.stderr
    sae = load_sae(run)
    assert sae.site_widths == (32, 32)
    base, tuned = sae.metadata["sites"]["scale_out"]
    assert base > 1.3 * tuned, "the tuned model's activations are twice as large, a few of its features more"
    done = command("evaluate", f"sae={run}", "studies=[sites,latent_scaling]", "tokens=16384")
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "evaluation" / "evaluation.json").read_text())["saes"]["run"]["studies"]
    by_norm = {name: e["value"] for name, e in found["sites"]["estimates"].items()}
    assert by_norm["fvu/base/rows"] < 0.3
    assert by_norm["fvu/tuned/rows"] < 0.3
    assert by_norm["norm_matched"] > 0.8
    assert by_norm["norm_right"] > 0.8
    assert found["latent_scaling"]["estimates"]["scaled_right"]["value"] > 0.9
    page = (run / "evaluation" / "evaluation.html").read_text()
    assert "nu_error" in page
    assert "share of the decoder norm" in page


def test_what_cannot_be_is_refused_in_one_line(command: Command, tmp_path: Path) -> None:
    metadata = {"sites": None, "data": {"synthetic": small().parameters()}}
    save_sae(tmp_path / "sae", StandardSAE(16, 4), metadata)
    for arguments, words in (
        (("evaluate", f"sae={tmp_path / 'sae'}", "studies=[sites]"), "several sites"),
        (("train", "data=two_models", "data.synthetic.least_strength=0"), "least_strength=0"),
    ):
        done = command(*arguments)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1

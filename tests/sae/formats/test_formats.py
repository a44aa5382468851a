"""Every format: out and back in, what it refuses, and what it recognises."""

import json
import resource

import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.sae import formats, save_sae
from tests.sae.formats.cases import CROSS, HELD, REFUSED, RESID, SITES, D, make, rows
from tests.sae.naive_sae import build, naive_forward, parameters_of

FOREIGN = ("saelens", "sparsify", "dictionary_learning")
CASES = [(form, case) for form, held in HELD.items() for case in held]


@pytest.mark.parametrize(("form", "case"), CASES)
def test_out_and_in_again_is_the_same_function(form, case, tmp_path):
    sae = make(**HELD[form][case])
    x = rows(d=sae.d_in)
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    formats.write(form, sae, tmp_path / "out", x)
    assert all(torch.equal(before[name], tensor) for name, tensor in sae.state_dict().items())
    back = formats.read(tmp_path / "out")
    assert not back.training
    torch.testing.assert_close(back.encode(x).dense(), sae.encode(x).dense(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(back(x).y_hat, sae(x).y_hat, atol=1e-5, rtol=1e-5)
    found = formats.agreement(sae, back, x)
    assert found.good, str(found)
    assert found.active > 300
    # What came back equals the formula of its architecture too, not only the other's code.
    expected = naive_forward(back, parameters_of(back), x)[0]
    torch.testing.assert_close(back(x).y_hat.double(), expected.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("form", "case"), CASES)
def test_metadata_comes_back(form, case, tmp_path):
    sae = make(**HELD[form][case])
    back = formats.read(formats.write(form, sae, tmp_path / "out"))
    for key in ("sites", "lm", "mask", "training"):
        assert back.metadata[key] == sae.metadata[key], key
    assert back.metadata["data"]["context_length"] == 128
    if form in FOREIGN:
        assert back.metadata["source"]["format"] == form


@pytest.mark.parametrize(
    ("form", "options", "reason"), [(form, *case) for form, cases in REFUSED.items() for case in cases]
)
def test_what_a_format_cannot_hold_is_refused_with_the_reason(form, options, reason, tmp_path):
    with pytest.raises(UserError, match=f"to={form}: .*{reason}"):
        formats.write(form, make(**options), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("form", ["saelens", "dictionary_learning"])
def test_a_batch_top_k_without_a_threshold_is_refused(form, tmp_path):
    with pytest.raises(UserError, match="no inference threshold"):
        formats.write(form, build("batch_topk").eval(), tmp_path / "out")


@pytest.mark.parametrize("form", FOREIGN)
def test_weights_that_were_changed_do_not_keep_what_was_measured(form, tmp_path):
    case = HELD[form]["topk"]
    folder = formats.write(form, make(**case), tmp_path / "a")
    other = formats.write(form, make(**case, seed=5), tmp_path / "b")
    weights = next(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".pt"))
    (other / weights).replace(folder / weights)
    metadata = formats.read(folder).metadata
    assert "training" not in metadata
    assert metadata["mask"] is None
    assert metadata["sites"] == SITES
    assert metadata["lm"] == {"name": "gpt2", "revision": None, "sha256": None, "tokenizer_hash": None}


def test_sparse_shares_are_written_where_rows_are_given(tmp_path):
    from safetensors.torch import load_file

    sae, x = make("jumprelu"), rows()
    formats.write("saelens", sae, tmp_path, x)
    shares = (sae.encode(x).dense() > 0).double().mean(0)
    expected = (shares + 1e-10).log10().float()
    torch.testing.assert_close(load_file(tmp_path / "sparsity.safetensors")["sparsity"], expected)


@pytest.mark.parametrize("form", FOREIGN)
def test_no_path_of_this_machine_goes_out(form, tmp_path):
    sae = make("topk")
    sae.metadata["lm"]["name"] = "/home/someone/models/mine"
    sae.metadata["data"]["file"] = ["/data/rows.npy", {"a": "~/x/y.bin"}, "C:\\data\\z.npy", "org/model"]
    folder = formats.write(form, sae, tmp_path / "out")
    text = next(folder.glob("*.json")).read_text()
    assert "/home" not in text
    assert json.loads(text)
    back = formats.read(folder).metadata
    assert back["data"]["file"] == ["rows.npy", {"a": "y.bin"}, "z.npy", "org/model"]
    assert back["lm"]["name"] == "mine"


@pytest.mark.parametrize(
    ("folder", "transcode", "sites"),
    [
        ("layers.3", False, SITES),
        ("h.3", False, SITES),
        ("layers.3.mlp", True, CROSS),
        ("layers.3.self_attn", False, {"read": ["blocks.3.hook_attn_out"], "write": ["blocks.3.hook_attn_out"]}),
        ("layers.3.self_attn", True, None),
        ("somewhere", False, None),
    ],
)
def test_sites_of_sparsify_come_from_the_folder_s_name(folder, transcode, sites, tmp_path):
    out = formats.write("sparsify", make("topk"), tmp_path / folder)
    config = json.loads((out / "cfg.json").read_text())
    assert config["hookpoint"] == "layers.3"
    config = {key: value for key, value in config.items() if key not in ("hookpoint", "sae_lightning")}
    (out / "cfg.json").write_text(json.dumps(config | {"transcode": transcode}))
    assert formats.read(out).metadata["sites"] == sites


ATTENTION = "blocks.1.hook_attn_out"


@pytest.mark.parametrize("form", FOREIGN)
@pytest.mark.parametrize(
    "sites", [{"read": [ATTENTION], "write": [ATTENTION]}, {"read": ["blocks.1.mlp.hook_in"], "write": [ATTENTION]}]
)
def test_no_name_of_a_folder_or_module_beats_the_stamp(form, sites, tmp_path):
    name = "standard" if form == "saelens" else "topk"
    out = formats.write(form, make(name, sites=sites), tmp_path / "layers.9")
    assert formats.read(out).metadata["sites"] == sites


@pytest.mark.parametrize(
    ("form", "place", "key", "said"),
    [
        ("saelens", "metadata", "hook_name", "blocks.9.hook_resid_post"),
        ("sparsify", None, "hookpoint", "layers.9"),
        ("dictionary_learning", "trainer", "submodule_name", "resid_post_layer_9"),
    ],
)
def test_what_a_file_states_counts_where_no_stamp_fits_its_weights(form, place, key, said, tmp_path, caplog):
    out = formats.write(form, make("topk"), tmp_path / "layers.5")
    file = next(out.glob("*.json"))
    config = json.loads(file.read_text())
    (config[place] if place else config)[key] = said
    file.write_text(json.dumps(config))
    assert formats.read(out).metadata["sites"] == SITES
    assert "blocks.9.hook_resid_post" in caplog.text
    stamp = config["metadata"] if form == "saelens" else config
    stamp["sae_lightning"]["weights_sha256"] = "0" * 64
    file.write_text(json.dumps(config))
    assert formats.read(out).metadata["sites"]["read"] == ["blocks.9.hook_resid_post"]


@pytest.mark.parametrize("form", FOREIGN)
def test_a_stamp_of_another_form_is_refused(form, tmp_path):
    out = formats.write(form, make("topk"), tmp_path / "sae")
    file = next(out.glob("*.json"))
    config = json.loads(file.read_text())
    stamp = config["metadata"] if form == "saelens" else config
    stamp["sae_lightning"]["metadata"]["sites"] = [1]
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"metadata\.sites=\[1\]"):
        formats.read(out)


@pytest.mark.parametrize("form", [*FOREIGN, "sae_lightning"])
def test_a_full_disk_is_one_line(form, tmp_path):
    """A limit on the size of files fails as a full disk does, in the libraries that write them."""
    sae = make("topk", d_in=64, d_sae=256)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(UserError, match="can't be written") as error:
            formats.write(form, sae, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out").iterdir())


def test_dictionary_learning_names_submodules(tmp_path):
    out = formats.write("dictionary_learning", make("topk"), tmp_path)
    trainer = json.loads((out / "config.json").read_text())["trainer"]
    assert (trainer["submodule_name"], trainer["layer"], trainer["lm_name"]) == ("resid_post_layer_3", 3, "gpt2")
    assert formats.read(tmp_path / "ae.pt").metadata["sites"]["read"] == [RESID]


def test_a_run_folder_and_an_export_are_read(tmp_path):
    sae, x = make("gated"), rows()
    save_sae(tmp_path / "run" / "export", sae)
    for path in (tmp_path / "run", tmp_path / "run" / "export"):
        assert torch.equal(formats.read(path)(x).y_hat, sae(x).y_hat)


def test_names_and_unknown_formats(tmp_path):
    assert formats.names() == ("dictionary_learning", "sae_lightning", "saelens", "sparsify")
    with pytest.raises(UserError, match="did you mean 'saelens'"):
        formats.write("sealens", make("topk"), tmp_path)


def test_agreement_tells_a_tie_from_an_error():
    sae, x = make("jumprelu"), rows()
    other = make("jumprelu")
    assert formats.agreement(sae, other, x) == formats.agreement(other, sae, x)
    assert formats.agreement(sae, other, x).features == 0
    # One pre-activation exactly on the threshold of one of the two: a tie, not a difference.
    z = sae.pre_acts(x).detach()
    row, feature = divmod(int(z.argmax()), sae.d_sae)
    for model, side in ((sae, -1), (other, 1)):
        with torch.no_grad():
            model.log_theta.data = model.log_theta.double()
            model.log_theta[feature] = (z[row, feature].double() * (1 + side * 1e-6)).log()
    found = formats.agreement(sae, other, x)
    assert (found.ties, found.good) == (1, True)
    with torch.no_grad():
        other.W_dec.mul_(1 + 1e-4)
    assert not formats.agreement(sae, other, x).good


@pytest.mark.parametrize("name", ["standard", "topk", "batch_topk", "jumprelu", "gated", "matryoshka"])
def test_probe_rows_make_features_fire(name):
    sae = make(name)
    x = formats.probe_rows(sae)
    assert x.shape == (512, D)
    assert torch.equal(x, formats.probe_rows(sae))
    # A good part of all features: a check on rows where nothing fires would be none.
    assert sae.encode(x).fired().float().mean() > 0.5

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_lightning.activations.normalise import Normaliser
from sae_lightning.core import UserError, file_sha256
from sae_lightning.sae import TopKSAE, fold, load_sae, save_sae
from tests.sae.naive_sae import ARCHITECTURES, build


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_round_trip_is_bit_equal(name, tmp_path):
    x = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    sae = build(name, skip=True)
    if hasattr(sae, "threshold"):
        sae.calibrate_threshold([x], 4.0)
    folded = fold(sae, Normaliser.fit(x, "rms", True))
    save_sae(tmp_path / "run" / "export", folded, {"l0": 4.0, "sites": {"read": ["a"], "write": ["b"]}})
    for path in (tmp_path / "run", tmp_path / "run" / "export", str(tmp_path / "run")):
        loaded = load_sae(path)
        assert type(loaded) is type(sae)
        assert loaded.metadata == {"l0": 4.0, "sites": {"read": ["a"], "write": ["b"]}}
        assert not loaded.training
        assert torch.equal(loaded(x).y_hat, folded(x).y_hat)
        assert loaded.state_dict().keys() == folded.state_dict().keys()
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, folded.state_dict()[key]), key
        assert all(p.requires_grad for p in loaded.parameters())
    assert sorted(p.name for p in (tmp_path / "run" / "export").iterdir()) == ["config.json", "sae.safetensors"]


def test_annealed_k_survives(tmp_path):
    sae = build("topk", k_start=20, k_anneal=1.0)
    sae.set_progress(0.5)
    assert load_sae(save_sae(tmp_path, sae)).k_effective == sae.k_effective == 12


def test_saved_in_float32_with_float64_thresholds(tmp_path):
    save_sae(tmp_path, build("batch_topk").to(torch.bfloat16))
    tensors = load_file(str(tmp_path / "sae.safetensors"))
    assert tensors["W_enc"].dtype == torch.float32
    assert tensors["threshold"].dtype == torch.float64


def edit(folder, **changes):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config.update(changes)
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def rewrite(folder, change):
    """Change the tensors and the checksum with them, so that the deeper checks are reached."""
    file = folder / "sae.safetensors"
    tensors = load_file(str(file))
    change(tensors)
    save_file(tensors, str(file))
    edit(folder, weights_sha256=file_sha256(file))


def flip(folder):
    file = folder / "sae.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def cut(file, share):
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


OPTIONS = build("topk").options()
BAD = {
    "weights missing": (lambda f: (f / "sae.safetensors").unlink(), "sae.safetensors.*missing"),
    "config missing": (lambda f: (f / "config.json").unlink(), "config.json"),
    "weights torn": (lambda f: cut(f / "sae.safetensors", 0.5), "sae.safetensors.*torn"),
    "weights empty": (lambda f: cut(f / "sae.safetensors", 0), "sae.safetensors.*torn"),
    "config torn": (lambda f: cut(f / "config.json", 0.5), "config.json.*JSON"),
    "config binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json.*JSON"),
    "config no object": (lambda f: (f / "config.json").write_text("[1]"), "format"),
    "flipped bit": (flip, "corrupt"),
    "unknown architecture": (lambda f: edit(f, architecture="topkk"), "did you mean 'topk'"),
    "other architecture": (
        lambda f: edit(f, architecture="batch_topk", options={"d_in": 12, "d_sae": 40}),
        "threshold",
    ),
    "contradicting d_sae": (lambda f: edit(f, options=OPTIONS | {"d_sae": 41}), r"has shape.*40.*41"),
    "unknown option": (lambda f: edit(f, options=OPTIONS | {"kk": 3}), "kk"),
    "option out of range": (lambda f: edit(f, options=OPTIONS | {"k": 99}), "k=99"),
    "wrong type": (lambda f: edit(f, options=OPTIONS | {"d_in": "12"}), r"config.json: options.d_in='12'.*integer"),
    "word for a width": (lambda f: edit(f, options=OPTIONS | {"d_sae": "x"}), r"options.d_sae='x'.*integer"),
    "boolean for a width": (lambda f: edit(f, options=OPTIONS | {"d_sae": True}), r"options.d_sae=True.*integer"),
    "word for a boolean": (lambda f: edit(f, options=OPTIONS | {"skip": "no"}), r"options.skip='no'.*boolean"),
    "gigantic width": (lambda f: edit(f, options=OPTIONS | {"d_sae": 10**30}), "config.json"),
    "sample no object": (lambda f: edit(f, sample=[1]), r"sample=\[1\]"),
    "progress beyond the end": (lambda f: edit(f, progress=1.5), "progress=1.5.*between 0 and 1"),
    "config nested without end": (lambda f: (f / "config.json").write_text('{"a": ' * 5000), "config.json.*JSON"),
    "whole numbers for weights": (lambda f: rewrite(f, lambda t: t.update(W_dec=t["W_dec"].int())), "W_dec.*int32"),
    "later version": (lambda f: edit(f, version=9), "version 9"),
    "foreign config": (lambda f: edit(f, format=None), "format"),
    "no metadata": (lambda f: edit(f, metadata=None), "metadata"),
    "tensor missing": (lambda f: rewrite(f, lambda t: t.pop("b_dec")), "b_dec"),
    "tensor not finite": (lambda f: rewrite(f, lambda t: t["W_dec"].fill_(float("nan"))), "W_dec.*NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_line(case, tmp_path):
    spoil, message = BAD[case]
    save_sae(tmp_path, build("topk"))
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load_sae(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


METADATA = {
    "sites": [[1], ["a"], "a", {"read": ["a"]}, {"read": "a", "write": "a"}, {"read": [1], "write": [1]}],
    "lm": ["gpt2", [1], {"name": 3}, {"name": "a", "tuned": "b"}],
    "data": [[1], "news"],
    "mask": [[1], True, {"norm_multiple": "many"}],
    "recipe": [[1], "topk"],
    "training": [[1], {"heldout": [1]}, {"intervals": {"fvu": 3}}, {"measured_on": {"fvu": "all"}}],
    "normalisation": ["rms"],
    "source": ["saelens"],
}


@pytest.mark.parametrize(
    ("key", "value"),
    [("widths", [4]), ("widths", "wide"), ("widths_out", [4, 0]), ("scale_out", [1.0, 2.0]), ("scale_out", [True])],
)
def test_numbers_of_sites_are_one_for_each(key, value, tmp_path):
    sites = {"read": ["a", "b"], "write": ["c"], "widths": [5, 7], "widths_out": [12], "scale_out": [0.5]}
    save_sae(tmp_path, build("topk"), {"sites": sites})
    assert load_sae(tmp_path).metadata["sites"] == sites
    edit(tmp_path, metadata={"sites": {**sites, key: value}})
    with pytest.raises(UserError, match=f"metadata.sites.{key}=.*for each site"):
        load_sae(tmp_path)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in METADATA.items() for value in values])
def test_metadata_of_another_form_is_refused(key, value, tmp_path):
    """Later code asks it for keys: what is no object there would be a traceback much later."""
    save_sae(tmp_path / "sae", build("topk"), {key: None})
    assert load_sae(tmp_path / "sae").metadata == {key: None}
    edit(tmp_path / "sae", metadata={key: value})
    with pytest.raises(UserError, match=f"config.json: metadata.{key}") as error:
        load_sae(tmp_path / "sae")
    assert "must be" in str(error.value)
    with pytest.raises(UserError, match=f"metadata.{key}"):
        save_sae(tmp_path / "other", build("topk"), {key: value})
    assert not (tmp_path / "other").exists()


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_sae(tmp_path / "none")


def test_a_failed_save_leaves_the_old_one(tmp_path):
    sae = build("topk")
    save_sae(tmp_path, sae, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        save_sae(tmp_path, build("topk", seed=1), {"fvu": float("nan")})
    with pytest.raises(TypeError, match="Tensor"):
        save_sae(tmp_path, build("topk", seed=1), {"fvu": torch.ones(1)})
    assert load_sae(tmp_path).metadata == {"a": 1}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        save_sae(tmp_path / "file" / "export", sae)


def test_weights_lie_by_feature_after_loading(tmp_path):
    sae = TopKSAE(6, 20, k=3)
    save_sae(tmp_path / "sae", sae)
    assert load_sae(tmp_path / "sae").W_enc.stride() == sae.W_enc.stride() == (1, 6)

"""What the settings in a file may say, and what each means: read exactly, or refused in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_lightning.sae import formats
from tests.sae.formats.cases import D, F, make, rows
from tests.sae.formats.damage import edit, fails, load, save


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": None}, ["architecture", "standard"]),
        ({"architecture": "temporal"}, ["temporal", "jumprelu"]),
        ({"architecture": "batchtopk"}, ["batchtopk", "save_inference_model"]),
        ({"architecture": ["topk"]}, ["architecture", "['topk']"]),
        ({"architecture": {}}, ["architecture", "{}"]),
        ({"apply_b_dec_to_input": "false"}, ["apply_b_dec_to_input", "'false'", "true or false"]),
        ({"rescale_acts_by_decoder_norm": "false"}, ["rescale_acts_by_decoder_norm", "'false'", "true or false"]),
        ({"metadata": {"sae_lens_version": [6]}}, ["sae_lens_version", "[6]"]),
        ({"normalize_activations": "layer_norm"}, ["layer_norm"]),
        ({"normalize_activations": "expected_average_only_in"}, ["expected_average_only_in"]),
        ({"finetuning_scaling_factor": True}, ["finetuning_scaling_factor"]),
        ({"d_in": None}, ["d_in", "None"]),
        ({"d_in": "12"}, ["d_in", "'12'"]),
        ({"architecture": "transcoder", "d_out": D, "apply_b_dec_to_input": True}, ["apply_b_dec_to_input"]),
        ({"architecture": "jumprelu"}, ["threshold", "missing"]),
        ({"architecture": "standard", "d_in": D + 1}, ["contradict"]),
    ],
)
def test_saelens_configs(changes, words, tmp_path):
    folder = formats.write("saelens", make("topk"), tmp_path)
    edit(folder / "cfg.json", lambda config: config.update(changes))
    fails(folder, *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"activation": "relu"}, ["relu", "groupmax"]),
        ({"activation": ["topk"]}, ["activation", "['topk']"]),
        ({"transcode": "false"}, ["transcode", "'false'", "true or false"]),
        ({"skip_connection": 0}, ["skip_connection", "0", "true or false"]),
        ({"normalize_decoder": "no"}, ["normalize_decoder", "'no'", "true or false"]),
        ({"signed": True}, ["signed"]),
        ({"skip_connection": True}, ["W_skip", "missing"]),
        ({"d_in": None}, ["d_in"]),
        ({"num_latents": 0, "expansion_factor": None}, ["expansion_factor"]),
        ({"activation": "groupmax", "k": 7}, ["k=7", "divide"]),
    ],
)
def test_sparsify_configs(changes, words, tmp_path):
    folder = formats.write("sparsify", make("topk"), tmp_path)
    edit(folder / "cfg.json", lambda config: config.update(changes))
    fails(folder, *words)


def test_dictionary_classes_by_their_tensors(tmp_path):
    for name, ours in {
        "standard": "standard",
        "jumprelu": "jumprelu",
        "gated": "gated",
        "matryoshka": "matryoshka",
    }.items():
        folder = formats.write("dictionary_learning", make(name), tmp_path / name)
        (folder / "config.json").unlink()
        assert formats.read(folder).name == ours
    folder = formats.write("dictionary_learning", make("batch_topk"), tmp_path / "b")
    (folder / "config.json").unlink()
    fails(folder, "AutoEncoderTopK or BatchTopKSAE", "config.json")
    folder = formats.write("dictionary_learning", make("topk"), tmp_path / "c")
    edit(folder / "config.json", lambda config: config["trainer"].update(dict_class="Sparse"))
    fails(folder, "Sparse", "AutoEncoderTopK")
    edit(folder / "config.json", lambda config: config["trainer"].update(dict_class=["AutoEncoderTopK"]))
    fails(folder, "['AutoEncoderTopK']", "one of")


def test_a_checkpoint_finds_the_config_above_it(tmp_path):
    sae, x = make("topk"), rows()
    folder = formats.write("dictionary_learning", sae, tmp_path / "trainer_0")
    (folder / "checkpoints").mkdir()
    (folder / "ae.pt").rename(folder / "checkpoints" / "ae_100.pt")
    back = formats.read(folder / "checkpoints" / "ae_100.pt")
    assert torch.equal(back(x).y_hat, sae(x).y_hat)


def test_group_sizes_that_are_none(tmp_path):
    folder = formats.write("dictionary_learning", make("matryoshka"), tmp_path)
    state = load(folder / "ae.pt")
    save(folder / "ae.pt", {**state, "group_sizes": torch.tensor([5, 5])})
    fails(folder, "group_sizes", "[5, 5]")
    for sizes in (torch.tensor([[20, 20]]), torch.tensor(40), torch.tensor([20.0, 20.0])):
        save(folder / "ae.pt", {**state, "group_sizes": sizes})
        fails(folder, "group_sizes")


def test_k_is_a_whole_number(tmp_path):
    folder = formats.write("dictionary_learning", make("topk", k=2), tmp_path)
    state = load(folder / "ae.pt")
    save(folder / "ae.pt", {**state, "k": torch.tensor(2.5)})
    fails(folder, "k is of type torch.float32", "whole")


def test_thresholds_of_zero_and_below_are_a_relu(tmp_path):
    """Any threshold up to 0 under a ReLU keeps what is positive: the smallest theta does the same, exactly."""
    sae, x = make("jumprelu"), rows()
    folder = formats.write("saelens", sae, tmp_path)
    tensors = load_file(folder / "sae_weights.safetensors")
    tensors["threshold"][::2] = 0.0
    tensors["threshold"][1::4] = -0.7
    save_file(tensors, folder / "sae_weights.safetensors")
    z = sae.pre_acts(x)
    expected = z.relu() * (z > tensors["threshold"])
    assert torch.equal(formats.read(folder).encode(x).dense(), expected)


@pytest.mark.parametrize("form", ["saelens", "dictionary_learning"])
def test_thresholds_keep_every_bit(form, tmp_path):
    """A threshold read as exp(log(t)) must still be t: what is equal to it does not fire."""
    sae = make("jumprelu", subtract_b_dec=False)
    folder = formats.write(form, sae, tmp_path)
    file = next(p for p in folder.iterdir() if p.suffix in (".safetensors", ".pt"))
    tensors = load(file)
    generator = torch.Generator().manual_seed(1)
    tensors["threshold"] = torch.rand(F, generator=generator).mul(12).sub(9).exp()
    save(file, tensors)
    back = formats.read(folder)
    assert torch.equal(back.theta.float(), tensors["threshold"])
    again = formats.write(form, back, tmp_path / "again")
    assert torch.equal(load(again / file.name)["threshold"], tensors["threshold"])


def test_an_old_saelens_file(tmp_path):
    """Before version 6 the config had no metadata of its own and called the hook and the activation otherwise."""
    sae, x = make("topk"), rows()
    folder = formats.write("saelens", sae, tmp_path)
    old = {"d_in": D, "d_sae": F, "dtype": "float32", "hook_point": "blocks.3.hook_resid_post", "model_name": "gpt2"}
    old |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "context_size": 64}
    (folder / "cfg.json").write_text(json.dumps(old))
    tensors = load_file(folder / "sae_weights.safetensors")
    save_file({**tensors, "scaling_factor": torch.ones(F)}, folder / "sae_weights.safetensors")
    back = formats.read(folder)
    assert torch.equal(back(x).y_hat, sae(x).y_hat)
    assert back.metadata["sites"]["read"] == ["blocks.3.hook_resid_post"]
    assert back.metadata["data"]["context_length"] == 64
    save_file({**tensors, "scaling_factor": torch.full((F,), 2.0)}, folder / "sae_weights.safetensors")
    fails(folder, "scaling_factor")
    edit(folder / "cfg.json", lambda config: config.update(activation_fn_kwargs=[1]))
    fails(folder, "activation_fn_kwargs", "[1]", "object")
    edit(folder / "cfg.json", lambda config: config.update(activation_fn_str="tanh-relu"))
    fails(folder, "tanh-relu")


@pytest.mark.parametrize(("version", "old"), [("6.0.0", False), ("10.1.0", False), ("5.9.1", True), ("v4", True)])
def test_versions_are_numbers(version, old, tmp_path):
    """What an old file means without a word, a new one has to say: version 10 is no old one."""
    folder = formats.write("saelens", make("standard"), tmp_path)

    def change(config):
        del config["architecture"]
        config["metadata"]["sae_lens_version"] = version

    edit(folder / "cfg.json", change)
    if old:
        assert formats.read(folder).name == "standard"
    else:
        fails(folder, "architecture is None")


def test_tensors_without_numbers_of_their_own(tmp_path):
    folder = formats.write("dictionary_learning", make("topk"), tmp_path)
    state = load(folder / "ae.pt")
    for odd in (
        torch.zeros(F, D, device="meta"),
        torch.zeros(1).expand(F, D),
        torch.zeros(1).expand(10**9, 10**9),
        torch.eye(D).to_sparse(),
    ):
        save(folder / "ae.pt", {**state, "encoder.weight": odd})
        fails(folder, "encoder.weight", "no plain tensor")

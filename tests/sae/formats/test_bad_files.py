"""Damaged, contradictory and hostile files: one line each, and nothing executed."""

import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_lightning.core import UserError
from sae_lightning.sae import formats
from tests.sae.formats.cases import D, F, make, rows

WEIGHTS = {
    "saelens": ("cfg.json", "sae_weights.safetensors", "W_enc"),
    "sparsify": ("cfg.json", "sae.safetensors", "encoder.weight"),
    "dictionary_learning": ("config.json", "ae.pt", "encoder.weight"),
}


@pytest.fixture(params=list(WEIGHTS))
def form(request):
    return request.param


@pytest.fixture
def folder(form, tmp_path):
    return formats.write(form, make("topk"), tmp_path / "sae")


def fails(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        formats.read(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert len(message) < 700


def load(file: Path) -> dict:
    return load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)


def save(file: Path, tensors: dict) -> None:
    if file.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file)


def edit(file: Path, change) -> None:
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


@pytest.mark.parametrize("size", [0, 5, 100, -50])
def test_torn_weights(form, folder, size):
    file = folder / WEIGHTS[form][1]
    data = file.read_bytes()
    file.write_bytes(data[: size if size >= 0 else len(data) + size])
    fails(folder, str(file), "torn")


def test_missing_weights(form, folder):
    file = folder / WEIGHTS[form][1]
    file.unlink()
    if form == "dictionary_learning":
        file = folder  # a config.json alone is nobody's
    fails(folder, str(file))


@pytest.mark.parametrize("text", ["", "{", "[1]", "nul", '{"a": ' * 5000])
def test_torn_config(form, folder, text):
    file = folder / WEIGHTS[form][0]
    file.write_text(text)
    fails(folder, str(file), "JSON")


def test_a_config_that_contradicts_the_shapes(form, folder):
    config, weights, _ = WEIGHTS[form]
    keys = {"saelens": "d_sae", "sparsify": "num_latents"}

    def change(value):
        if form == "dictionary_learning":
            value["trainer"]["dict_size"] = F + 1
        else:
            value[keys[form]] = F + 1

    edit(folder / config, change)
    fails(folder, weights, str(F), str(F + 1), "contradict")


@pytest.mark.parametrize("k", ["missing", 0, -3, 2.5, "four", None, True, F + 1])
def test_k(form, folder, k):
    def change(value):
        place = value["trainer"] if form == "dictionary_learning" else value
        if k == "missing":
            del place["k"]
        else:
            place["k"] = k

    edit(folder / WEIGHTS[form][0], change)
    if form == "dictionary_learning":
        if k == "missing":  # the state dict has it too
            assert formats.read(folder).options()["k"] == 4
            return
        file = folder / "ae.pt"
        state = load(file)
        del state["k"]
        save(file, state)
    fails(folder, "k" if k != F + 1 else f"k={F + 1}")


def test_k_that_differs_between_the_two_files(tmp_path):
    folder = formats.write("dictionary_learning", make("batch_topk"), tmp_path)
    edit(folder / "config.json", lambda value: value["trainer"].update(k=5))
    fails(folder, "k=4", "k=5")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(form, folder, value):
    file, name = folder / WEIGHTS[form][1], WEIGHTS[form][2]
    tensors = load(file)
    tensors[name][0, 0] = value
    save(file, tensors)
    fails(folder, str(file), name, "NaN")


def test_missing_and_surplus_tensors(form, folder):
    file, name = folder / WEIGHTS[form][1], WEIGHTS[form][2]
    tensors = load(file)
    save(file, {**tensors, "extra": torch.zeros(2)})
    fails(folder, str(file), "extra")
    del tensors[name]
    save(file, tensors)
    fails(folder, str(file), name, "missing")


def test_wrong_kinds_of_tensors(form, folder):
    file, name = folder / WEIGHTS[form][1], WEIGHTS[form][2]
    tensors = load(file)
    save(file, {**tensors, name: tensors[name].flatten().contiguous()})
    fails(folder, str(file), name)


def test_half_precision_weights_are_read_exactly(form, folder):
    file = folder / WEIGHTS[form][1]
    tensors = {name: t.bfloat16() if t.is_floating_point() else t for name, t in load(file).items()}
    save(file, tensors)
    sae = formats.read(folder)
    assert sae.W_enc.dtype == torch.float32
    assert torch.equal(sae.W_enc, sae.W_enc.bfloat16().float())


class Payload:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (os.system, (f"touch {self.file}",))


@pytest.mark.parametrize("how", ["torch", "pickle", "nested"])
def test_a_pickle_with_code_is_refused_and_nothing_runs(how, tmp_path):
    folder, marker = tmp_path / "sae", tmp_path / "ran"
    formats.write("dictionary_learning", make("topk"), folder)
    file = folder / "ae.pt"
    if how == "torch":
        torch.save(Payload(marker), file)
    elif how == "nested":
        torch.save({**load(file), "x": Payload(marker)}, file)
    else:
        file.write_bytes(pickle.dumps({"W_enc": Payload(marker)}))
    fails(folder, "nothing in it was executed")
    assert not marker.exists()
    # It would have run: the test's payload is a real one.
    if how == "torch":
        torch.load(file, weights_only=False)
        assert marker.exists()


def test_a_pickle_of_something_else(tmp_path):
    torch.save([1, 2], tmp_path / "ae.pt")
    fails(tmp_path, "state dict")
    torch.save({"a": 3}, tmp_path / "ae.pt")
    fails(tmp_path, "state dict")


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


def test_a_bank_s_run_folder_names_its_lanes(tmp_path):
    for name in ("k8", "k16"):
        formats.write("sae_lightning", make("topk"), tmp_path / "run" / "lanes" / name / "export")
    fails(tmp_path / "run", "lanes/k16, lanes/k8: give one of them")
    assert formats.read(tmp_path / "run" / "lanes" / "k8").name == "topk"


def test_nothing_recognisable(tmp_path):
    fails(tmp_path / "none", "no such file or folder")
    fails(tmp_path, "saelens: cfg.json and sae_weights.safetensors", "dictionary_learning", "sparsify", "sae_lightning")
    formats.write("sparsify", make("topk"), tmp_path / "layers.3")
    fails(tmp_path, "layers.3: give one of them")
    (tmp_path / "notes.txt").write_text("x")
    fails(tmp_path / "notes.txt", "no SAE of a known format")


def test_two_formats_in_one_folder(tmp_path):
    formats.write("saelens", make("topk"), tmp_path)
    formats.write("dictionary_learning", make("topk"), tmp_path)
    fails(tmp_path, "dictionary_learning and saelens")


def test_messages_are_one_line_even_for_odd_names(tmp_path):
    folder = tmp_path / "a\nb"
    formats.write("saelens", make("topk"), folder)
    (folder / "sae_weights.safetensors").write_bytes(b"x")
    fails(folder, re.sub(r"\s+", " ", "a\nb"))

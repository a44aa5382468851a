"""Damaged, contradictory and hostile files: one line each, and nothing executed."""

import os
import pickle
import re
from pathlib import Path

import pytest
import torch

from sae_lightning.sae import formats
from tests.sae.formats.cases import F, make
from tests.sae.formats.damage import WEIGHTS, edit, fails, load, save


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

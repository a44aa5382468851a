"""dictionary_learning by its own means: utils.load_dictionary and training.trainSAE, which also saves."""

import shutil
from itertools import cycle, islice

from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.training import trainSAE
from dictionary_learning.utils import load_dictionary

D_SAE, STEPS, BATCH = 48, 60, 256
SPARSE = {"lr": 3e-3, "sparsity_warmup_steps": 5}
TRAINERS = {
    "standard": (StandardTrainer, {**SPARSE, "l1_penalty": 0.1}),
    "april": (StandardTrainerAprilUpdate, {**SPARSE, "l1_penalty": 0.1}),
    "gated": (GatedSAETrainer, {**SPARSE, "l1_penalty": 0.1}),
    "jumprelu": (JumpReluTrainer, {**SPARSE, "target_l0": 8.0}),
    "topk": (TopKTrainer, {"lr": 3e-3, "k": 4}),
    "batchtopk": (BatchTopKTrainer, {"lr": 3e-3, "k": 4, "threshold_start_step": 10, "threshold_beta": 0.9}),
    "batchtopk_unset": (BatchTopKTrainer, {"lr": 3e-3, "k": 4}),
    "matryoshka": (
        MatryoshkaBatchTopKTrainer,
        {"k": 4, "group_fractions": [0.25, 0.25, 0.5], "threshold_start_step": 10, "threshold_beta": 0.9},
    ),
}


def forward(folder, rows):
    sae, _ = load_dictionary(str(folder), "cpu")
    features = sae.encode(rows)
    return features, sae.decode(features)


def train(kind, rows, folder):
    trainer, options = TRAINERS[kind]
    config = {
        "trainer": trainer,
        "steps": STEPS,
        "activation_dim": rows.shape[1],
        "dict_size": D_SAE,
        "layer": 3,
        "lm_name": "gpt2",
        "submodule_name": "resid_post_layer_3",
        "warmup_steps": 5,
        "seed": 0,
        "device": "cpu",
        **options,
    }
    data = islice(cycle(rows.split(BATCH)), STEPS)
    trainSAE(data, [config], STEPS, save_dir=str(folder.with_suffix(".all")), device="cpu")
    shutil.move(folder.with_suffix(".all") / "trainer_0", folder)

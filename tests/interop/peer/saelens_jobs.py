"""SAELens by its own means: SAE.load_from_disk, SAETrainer, save_inference_model."""

from itertools import cycle

import torch
from sae_lens import SAE
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.training.sae_trainer import SAETrainer

D_SAE, STEPS, BATCH = 48, 60, 256
OPTIONS = {
    "standard": {"l1_coefficient": 0.5},
    "gated": {"l1_coefficient": 0.5},
    "topk": {"k": 4},
    "abstopk": {"k": 4},
    "batchtopk": {"k": 4, "topk_threshold_lr": 0.2},
    "matryoshka_batchtopk": {"k": 4, "matryoshka_widths": [8, 16, 48], "topk_threshold_lr": 0.2},
    "jumprelu": {"l0_coefficient": 0.1, "jumprelu_init_threshold": 0.2},
}


def forward(folder, rows):
    sae = SAE.load_from_disk(folder)
    return sae.encode(rows), sae(rows)


def train(kind, rows, folder):
    if "transcoder" in kind:
        return fit_transcoder(kind, rows, folder)
    cls, config = get_sae_training_class(kind)
    sae = cls(config(d_in=rows.shape[1], d_sae=D_SAE, **OPTIONS[kind]))
    sae.cfg.metadata.hook_name = "blocks.3.hook_resid_post"
    sae.cfg.metadata.model_name = "gpt2"
    sae.cfg.metadata.context_size = 128
    settings = SAETrainerConfig(
        total_training_samples=STEPS * BATCH,
        train_batch_size_samples=BATCH,
        lr=3e-3,
        lr_end=3e-4,
        logger=LoggingConfig(log_to_wandb=False),
    )
    SAETrainer(settings, sae, cycle(rows.split(BATCH))).fit()
    sae.save_inference_model(folder)


def fit_transcoder(kind, rows, folder):
    """SAELens has no trainer for transcoders: its class, a plain loop, its save."""
    cls, config = get_sae_class(kind)
    d = rows.shape[1]
    sae = cls(config(d_in=d, d_sae=D_SAE, d_out=d // 2, apply_b_dec_to_input=False))
    targets = rows[:, : d // 2].abs()
    if "jumprelu" in kind:
        sae.threshold.data.fill_(0.05)
    optimiser = torch.optim.Adam(sae.parameters(), lr=3e-3)
    for step in range(STEPS):
        x, y = (part[step * BATCH % len(rows) :][:BATCH] for part in (rows, targets))
        (sae(x) - y).square().sum(1).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    sae.cfg.metadata.hook_name, sae.cfg.metadata.hook_name_out = "blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out"
    sae.save_model(folder)

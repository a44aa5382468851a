"""sparsify by its own means: SparseCoder.load_from_disk and save_to_disk, and the steps of its trainer.

Its Trainer needs a language model and a corpus; the loop here is what it does with a batch of activations.
"""

import torch
from sparsify.config import SparseCoderConfig
from sparsify.sparse_coder import SparseCoder

D_SAE, STEPS, BATCH = 48, 60, 256
OPTIONS = {
    "topk": {},
    "groupmax": {"activation": "groupmax"},
    "skip": {"skip_connection": True},
    "transcode": {"transcode": True},
    "transcode_skip": {"transcode": True, "skip_connection": True},
    "expansion": {"num_latents": 0, "expansion_factor": 4},
}


def forward(folder, rows):
    sae = SparseCoder.load_from_disk(folder)
    acts, indices, _ = sae.encode(rows)
    return torch.zeros(len(rows), sae.num_latents).scatter_(1, indices, acts), sae(rows).sae_out


def train(kind, rows, folder):
    options = {"num_latents": D_SAE, "k": 4, **OPTIONS[kind]}
    sae = SparseCoder(rows.shape[1], SparseCoderConfig(**options), dtype=torch.float32)
    sae.b_dec.data = rows.mean(0)
    targets = rows.roll(1, dims=1).abs() if "transcode" in kind else rows
    optimiser = torch.optim.Adam(sae.parameters(), lr=3e-3)
    for step in range(STEPS):
        x, y = (part[step * BATCH % len(rows) :][:BATCH] for part in (rows, targets))
        if not sae.cfg.transcode:
            sae.set_decoder_norm_to_unit_norm()
        sae(x, y).fvu.backward()
        if not sae.cfg.transcode:
            sae.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
    sae.save_to_disk(folder)

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# The peers live in an environment of their own, and two of them carry no types.
"""Each peer's own trainer with its defaults, as its users get it, and the step that this trainer makes.

Learning rates are the libraries' own where none is given: they do not change what a step costs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.shape import PREFIXES


@dataclass(frozen=True)
class Peer:
    """step: one optimiser step on a batch. encode: the features [n, d_sae] of rows, as training sees them.
    pre_acts: [n, d_sae]; start_at: sets biases or thresholds to where pre-activations above t are active. Both are None
    where k limits the features already."""

    step: Callable[[Tensor], Any]
    encode: Callable[[Tensor], Tensor]
    pre_acts: Callable[[Tensor], Tensor] | None = None
    start_at: Callable[[float], Any] | None = None


def widths(d_sae: int) -> list[int]:
    """Return where Matryoshka's prefixes end, the same for all."""
    return [round(share * d_sae) for share in PREFIXES]


def saelens(a: Any, lr: float | None, *, sparse: bool = False) -> Peer:
    """sae-lens: ``SAETrainer.step`` on its training SAE. sparse: its option of sparse activations."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.training.sae_trainer import SAETrainer

    kind = {"batch_topk": "batchtopk", "matryoshka": "matryoshka_batchtopk"}.get(str(a.model), str(a.model))
    extra: dict[str, Any] = {"k": a.k} if "topk" in kind else {}
    if a.model == "matryoshka":
        extra["matryoshka_widths"] = widths(a.d_sae)
    if sparse:
        extra["use_sparse_activations"] = True
    cls, config = get_sae_training_class(kind)
    sae = cls(config(d_in=a.d_in, d_sae=a.d_sae, device=a.device, **extra)).to(a.device)
    rate = {} if lr is None else {"lr": lr}
    trainer_config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=a.batch,
        device=a.device,
        lr_end=3e-5 if lr is None else lr / 10,
        autocast=a.dtype == "bfloat16",
        logger=LoggingConfig(log_to_wandb=False),
        **rate,
    )
    trainer = SAETrainer(trainer_config, sae, iter(()))

    def step(x: Tensor) -> None:
        trainer.maybe_reset_sparsity()
        trainer.step(x)
        trainer.n_training_steps += 1

    def encode(x: Tensor) -> Tensor:
        acts = sae.encode_with_hidden_pre(x)[0]
        return acts.to_dense() if acts.is_sparse else acts

    def start_at(t: float) -> None:
        if kind == "jumprelu":
            sae.threshold.data.fill_(t)
        else:
            (sae.b_gate if kind == "gated" else sae.b_enc).data.fill_(-t)

    if kind in ("standard", "jumprelu", "gated"):
        return Peer(step, encode, lambda x: sae.process_sae_in(x) @ sae.W_enc, start_at)
    return Peer(step, encode)


def sparsify(a: Any, lr: float | None, *, optimizer: str = "adam") -> Peer:
    """eai-sparsify: the body of ``Trainer.fit`` for one site, without its language model.

    optimizer: adam, or signum (its default).
    """
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    torch.set_float32_matmul_precision("high")  # as Trainer.fit does
    sae = SparseCoder(a.d_in, SparseCoderConfig(num_latents=a.d_sae, k=a.k), device=a.device, dtype=torch.float32)
    if optimizer == "signum":
        from schedulefree import ScheduleFreeWrapper
        from sparsify.sign_sgd import SignSGD

        group = {"params": list(sae.parameters()), "lr": lr or 5e-3 / (a.d_sae / 2**14) ** 0.5}
        opt: Any = ScheduleFreeWrapper(SignSGD([group]), momentum=0.95)
        opt.train()
    else:
        opt = torch.optim.Adam(sae.parameters(), lr=lr or 2e-4 / (a.d_sae / 2**14) ** 0.5)
    since_fired = torch.zeros(a.d_sae, device=a.device, dtype=torch.long)
    fired = torch.zeros(a.d_sae, device=a.device, dtype=torch.bool)

    def step(x: Tensor) -> float:
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x=x, y=x, total_variance=(x - x.mean(0)).pow(2).sum())
        fired[out.latent_indices.flatten()] = True
        fvu = float(out.fvu.detach())
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        opt.step()
        opt.zero_grad()
        since_fired.add_(len(x))
        since_fired[fired] = 0
        fired.zero_()
        return fvu

    def encode(x: Tensor) -> Tensor:
        found = sae.encode(x)
        return torch.zeros(len(x), a.d_sae, device=x.device).scatter_(1, found.top_indices, found.top_acts)

    return Peer(step, encode)


def dictionary_learning(a: Any, lr: float | None, *, constrained: bool = False) -> Peer:
    """dictionary_learning: ``update`` of its trainers. constrained: its first standard one, of unit decoder norm."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.gdm import GatedSAETrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
    from dictionary_learning.trainers.top_k import TopKTrainer

    cls: Any = {
        "topk": TopKTrainer,
        "batch_topk": BatchTopKTrainer,
        "matryoshka": MatryoshkaBatchTopKTrainer,
        "jumprelu": JumpReluTrainer,
        "standard": StandardTrainer if constrained else StandardTrainerAprilUpdate,
        "gated": GatedSAETrainer,
    }[a.model]
    ends = [0.0, *PREFIXES]
    extra: dict[str, Any] = {"k": a.k} if a.model in ("topk", "batch_topk", "matryoshka") else {}
    if a.model == "matryoshka":
        extra["group_fractions"] = [end - start for start, end in pairwise(ends)]
    if lr is not None:
        extra["lr"] = lr
    trainer = cls(
        steps=10**6, activation_dim=a.d_in, dict_size=a.d_sae, layer=0, lm_name="none", device=a.device, **extra
    )
    ae, done = trainer.ae, 0

    def step(x: Tensor) -> None:
        nonlocal done
        if a.dtype == "bfloat16":
            with torch.autocast(torch.device(a.device).type, dtype=torch.bfloat16):
                trainer.update(done, x)
        else:
            trainer.update(done, x)
        done += 1

    def encode(x: Tensor) -> Tensor:
        return ae.encode(x, use_threshold=False) if a.model in ("topk", "batch_topk", "matryoshka") else ae.encode(x)

    def pre_acts(x: Tensor) -> Tensor:
        return x @ ae.W_enc if a.model == "jumprelu" else x @ ae.encoder.weight.T

    def start_at(t: float) -> None:
        if a.model == "jumprelu":
            ae.threshold.data.fill_(t)
        else:
            (ae.gate_bias if a.model == "gated" else ae.encoder.bias).data.fill_(-t)

    if a.model in ("standard", "jumprelu", "gated"):
        return Peer(step, encode, pre_acts, start_at)
    return Peer(step, encode)


# Who has which architecture; each entry is measured.
PEERS: dict[str, tuple[tuple[str, ...], Callable[[Any, float | None], Peer]]] = {
    "saelens": (("topk", "batch_topk", "jumprelu", "standard", "gated", "matryoshka"), saelens),
    "saelens-sparse": (("topk",), lambda a, lr: saelens(a, lr, sparse=True)),
    "sparsify": (("topk",), sparsify),
    "sparsify-signum": (("topk",), lambda a, lr: sparsify(a, lr, optimizer="signum")),
    "dictionary_learning": (
        ("topk", "batch_topk", "jumprelu", "standard", "gated", "matryoshka"),
        dictionary_learning,
    ),
    "dictionary_learning-constrained": (("standard",), lambda a, lr: dictionary_learning(a, lr, constrained=True)),
}


def names_for(model: str) -> list[str]:
    """Return the entries that have an architecture."""
    return [name for name, (models, _) in PEERS.items() if model in models]

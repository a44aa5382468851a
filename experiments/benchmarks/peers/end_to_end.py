#!/usr/bin/env python3
# pyright: reportMissingImports=false
# sae-lens lives in an environment of its own.
"""Language model and SAE together in sae-lens: its training runner on given token windows; prints one JSON line.

    PYTHONPATH=. PEERS/bin/python -m experiments.benchmarks.peers.end_to_end --peer saelens --lm FOLDER --windows FILE

Its defaults but for batch, buffer and precision of the language model (bfloat16, as ours). Started by
experiments.benchmarks.end_to_end.
"""

import argparse
import contextlib
import json
import time
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sae_lens.config import LanguageModelSAERunnerConfig, LoggingConfig
from sae_lens.llm_sae_training_runner import LanguageModelSAETrainingRunner
from sae_lens.registry import get_sae_training_class
from sae_lens.training.sae_trainer import SAETrainer

from experiments.benchmarks.peers.libraries import widths
from experiments.benchmarks.process import peak_resident_mib

BUFFER = 16_384


class _Enough(Exception):  # noqa: N818 - not an error
    """All steps that were asked for have been made."""


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peer", choices=["saelens", "saelens-prefetch"], required=True)
    p.add_argument("--model", choices=["topk", "batch_topk", "matryoshka"], required=True)
    p.add_argument("--lm", required=True, help="folder of the language model in Hugging Face's format")
    p.add_argument("--windows", required=True, help=".npy of token ids [n, context]")
    for name in ("d-sae", "k", "batch", "layer", "context", "threads", "refills"):
        p.add_argument(f"--{name}", type=int, required=True)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    kind = {"batch_topk": "batchtopk", "matryoshka": "matryoshka_batchtopk"}.get(a.model, a.model)
    extra: dict[str, Any] = {"matryoshka_widths": widths(a.d_sae)} if a.model == "matryoshka" else {}
    _, sae_config = get_sae_training_class(kind)
    with open(f"{a.lm}/config.json", encoding="utf-8") as file:
        d_in = json.load(file)["hidden_size"]
    config = LanguageModelSAERunnerConfig(
        sae=sae_config(d_in=d_in, d_sae=a.d_sae, k=a.k, **extra),
        model_name=a.lm,
        model_class_name="AutoModelForCausalLM",
        model_from_pretrained_kwargs={"dtype": "bfloat16"},
        hook_name=f"model.layers.{a.layer}",
        dataset_path="",
        streaming=False,
        context_size=a.context,
        training_tokens=10**7,
        train_batch_size_tokens=a.batch,
        store_batch_size_prompts=max(1, 4096 // a.context),
        n_batches_in_buffer=BUFFER // a.context,
        prefetch_llm_batches=a.peer == "saelens-prefetch",
        prepend_bos=False,
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=None,
        verbose=False,
    )
    one = max(1, BUFFER // 2 // a.batch)
    stamps: list[float] = []
    own_step = SAETrainer.step

    def step(self: Any, batch: Any) -> Any:
        # Just after a batch was fetched: whole rounds of the buffer lie between stamps 0, one, 2 one, ...
        stamps.append(time.perf_counter())
        if len(stamps) > (1 + a.refills) * one:
            raise _Enough
        return own_step(self, batch)

    SAETrainer.step = step
    rows = Dataset.from_dict({"input_ids": np.load(a.windows).tolist()})
    with contextlib.suppress(_Enough):
        LanguageModelSAETrainingRunner(config, override_dataset=rows).run()
    seconds = stamps[-1] - stamps[one]
    found = {"seconds": round(seconds, 2), "tokens_per_s": round(a.batch * one * a.refills / seconds, 2)}
    print(json.dumps({**found, "peak_mib": round(peak_resident_mib(), 1)}))


if __name__ == "__main__":
    main()

"""A million features train, and tokens x features is never whole in memory."""

import json
import subprocess
import sys

import pytest

STEP = """
import json, resource, sys, torch
from sae_lightning.core import ActivationBatch
from sae_lightning.losses import AuxK, Matryoshka, Objective, Reconstruction, StepContext
from sae_lightning.sae import BatchTopKSAE, MatryoshkaSAE, TopKSAE, initialise
from sae_lightning.training.adam import FusedAdam

kind = {c.name: c for c in (TopKSAE, BatchTopKSAE, MatryoshkaSAE)}[sys.argv[1]]
product = {"float32": None, "bfloat16": torch.bfloat16}[sys.argv[2]]
d, d_sae, n, block = 16, 1_000_000, 512, 32 << 20

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
torch.addmm(torch.zeros(8), x.bfloat16().float(), torch.randn(d, 8))  # what the first product loads is there before
before = peak()
sae = kind(d, d_sae, k=4).train()
initialise(sae, x, seed=0)
sae.execution.block_bytes, sae.execution.product = block, product
optimizer = FusedAdam([{"params": list(sae.parameters()), "clip": 1.0}])
terms = {"matryoshka": Matryoshka()} if sae.name == "matryoshka" else {"reconstruction": Reconstruction()}
objective = Objective({**terms, "aux_k": AuxK()})
batch = ActivationBatch(x=x, y=x, token_index=torch.arange(n))
errors = []
for _ in range(3):
    optimizer.zero_grad()
    out = sae(x)
    assert out.pre_acts is None
    dead = torch.ones(d_sae, dtype=torch.bool)
    loss, values = objective(StepContext(batch=batch, out=out, sae=sae, dead=dead))
    errors.append(float((out.y_hat - x).square().sum()))
    loss.backward()
    optimizer.step()
n_parameters = sum(p.numel() for p in sae.parameters())
sizes = {"state": 16 * n_parameters, "block": block, "whole": 4 * n * d_sae}
print(json.dumps({"used": peak() - before, **sizes, "errors": errors}))
"""


@pytest.mark.parametrize(
    ("kind", "product"), [("topk", "bfloat16"), ("batch_topk", "float32"), ("matryoshka", "bfloat16")]
)
def test_a_million_features(kind, product):
    done = subprocess.run([sys.executable, "-c", STEP, kind, product], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    # With dead features (all, here) AuxK's gradients are added to the others', so there are two of each for a moment;
    # 8 MB a list of features or pairs.
    assert found["used"] < 1.5 * found["state"] + 1.5 * found["block"] + 160e6, found
    assert found["used"] < found["whole"] / 2
    assert found["errors"][-1] < found["errors"][0]

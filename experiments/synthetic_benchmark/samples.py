"""Write the rows that a run with data=synthetic trains on to stdout: raw float32, in the run's own order.

    python -m experiments.synthetic_benchmark.samples --tokens 5000000 --seed 0 | PEERS/bin/python peers.py ...

The same bits as ``python -m sae_lightning.train data=synthetic seed=0`` reads: a peer learns from the same samples.
"""

import argparse
import sys

from sae_lightning import command
from sae_lightning.activations.synthetic import PlantedModel, SyntheticSource
from sae_lightning.build.synthetic import build_planted
from sae_lightning.config import validate


def model() -> PlantedModel:
    """Return the synthetic model of ``data=synthetic`` as it is."""
    return build_planted(validate(command.plain(command.compose("train", ["data=synthetic"]))).data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    source = SyntheticSource(model(), a.batch, a.seed)
    for _ in range(a.tokens // a.batch):
        sys.stdout.buffer.write(source.next().x.numpy().tobytes())


if __name__ == "__main__":
    main()

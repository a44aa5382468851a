"""Coverage of the 95 % intervals by number of windows: ``python -m experiments.interval_coverage.run``."""

import sys

import torch

from experiments.interval_coverage.population import METRICS, Population, coverage

SAMPLES = (16, 32, 64, 128, 256, 512)


def main(resamples: int) -> None:
    torch.set_num_threads(1)
    population = Population()
    print("| figure | " + " | ".join(f"{n} windows" for n in SAMPLES) + " |")
    print("|---|" + "---|" * len(SAMPLES))
    for make in METRICS.values():
        states, metric = population.of(make), make(population, 0)
        shares = [coverage(metric, states, n, resamples) for n in SAMPLES]
        for figure in shares[0]:
            print(f"| {figure} | " + " | ".join(f"{share[figure]:.3f}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)

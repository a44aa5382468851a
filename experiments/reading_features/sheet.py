"""A sheet to read features from: for each its figures, strongest examples, and some from its whole range.

    python -m experiments.reading_features.sheet STORE --random 30 --seed 0
    python -m experiments.reading_features.sheet STORE --features 18 20 37

Text lines for reading, the token in double brackets. ``--random`` draws from the features that fire on at least
``--least`` tokens.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from sae_lightning.core import derive_seed
from sae_lightning.store import FeatureStore
from sae_lightning.studies.analysis.contexts import Example, examples_of


def chosen(store: FeatureStore, n: int, seed: int, least: int) -> list[int]:
    """Return n features drawn without replacement from those that fire on at least ``least`` tokens, ascending."""
    able = np.flatnonzero(store.stats.count >= least)
    rng = np.random.default_rng(derive_seed(seed, "reading_features"))
    return sorted(rng.choice(able, min(n, len(able)), replace=False).tolist())


def line(example: Example) -> str:
    """Return an example on one line."""
    context = example.context
    shown = f"{context.before}[[{context.token}]]{context.after}"
    return f"  {example.value:6.1f}  " + " ".join(shown.split())


def sheet(store: FeatureStore, features: Sequence[int], top: int, per_bin: int) -> str:
    """Return the features' sheets, one after the other."""
    out = []
    for feature in features:
        found = examples_of(store, feature, top=top, bins=4, per_bin=per_bin, lowest=1, before=10, after=6)
        count = int(store.stats.count[feature])
        out.append(f"feature {feature}: {count:,} tokens, {100 * count / store.n_kept:.3f} %")
        out += [line(example) for example in found.top]
        out.append("  across its range:")
        out += [line(example) for example in found.quantiles]
        out.append("")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--features", type=int, nargs="+", default=[])
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=int, default=100)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--per-bin", type=int, default=2)
    a = parser.parse_args()
    store = FeatureStore.open(a.store)
    features = [*a.features, *chosen(store, a.random, a.seed, a.least)]
    print(sheet(store, features, a.top, a.per_bin))


if __name__ == "__main__":
    main()

"""The tree of features."""

import numpy as np
import pytest

from sae_lightning.activations.synthetic.forest import Forest
from sae_lightning.activations.synthetic.settings import Hierarchy


def parents_of(forest: Forest) -> dict[int, int]:
    found: dict[int, int] = {}
    for node in range(len(forest.first)):
        for child in range(forest.first[node], forest.first[node] + forest.count[node]):
            assert child not in found, "two parents"
            found[child] = node
    return found


@pytest.mark.parametrize("n", [1, 3, 10, 50, 200])
def test_every_child_has_one_parent_with_a_smaller_number_and_the_rest_is_on_top(n: int) -> None:
    how = Hierarchy(total_root_nodes=4, branching_factor=(2, 5), max_depth=3)
    forest = Forest.grow(n, how, np.random.default_rng(1))
    parents = parents_of(forest)
    assert all(parent < child for child, parent in parents.items())
    top = {i for part in forest.top for i in range(n)[part]}
    assert top == set(range(n)) - parents.keys()
    depth = dict.fromkeys(top, 0)
    for child in sorted(parents):
        depth[child] = depth[parents[child]] + 1
    assert max(depth.values()) <= 3
    assert [depth[i] for i in sorted(parents)] == sorted(depth[i] for i in parents), "level by level"
    assert all(2 <= c <= 5 for c in forest.count[forest.count > 0][:-1])


def test_a_full_tree_has_the_numbers_that_its_settings_say() -> None:
    how = Hierarchy(total_root_nodes=2, branching_factor=3, max_depth=2, mutually_exclusive_portion=1.0)
    forest = Forest.grow(30, how, np.random.default_rng(0))
    assert forest.n_inside == 2 + 6 + 18
    np.testing.assert_array_equal(forest.exclusive.nonzero()[0], np.arange(8))
    np.testing.assert_array_equal(forest.count[:8], np.full(8, 3))
    assert forest.count[8:].sum() == 0


def test_exclusion_is_given_to_the_share_of_parents_between_the_depths() -> None:
    how = Hierarchy(
        total_root_nodes=10,
        branching_factor=2,
        max_depth=3,
        mutually_exclusive_portion=0.5,
        mutually_exclusive_min_depth=1,
        mutually_exclusive_max_depth=1,
    )
    forest = Forest.grow(1000, how, np.random.default_rng(0))
    assert set(forest.exclusive.nonzero()[0]) <= set(range(10, 30))
    assert forest.exclusive.sum() == 10


def test_compensation_is_the_formula_worked_by_hand() -> None:
    how = Hierarchy(total_root_nodes=1, branching_factor=2, max_depth=2, mutually_exclusive_portion=0.0)
    forest = Forest.grow(7, how, np.random.default_rng(0))
    forest.exclusive[0] = True
    p = np.array([0.4, 0.1, 0.05, 0.02, 0.01, 0.04, 0.03])
    wanted = [0.4, 0.25 * (1 + 0.125), 0.125 * (1 + 0.25), 0.2, 0.1, 0.8, 0.6]
    np.testing.assert_allclose(forest.compensated(p), wanted)
    assert forest.compensated(np.array([0.01, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])).max() == 1.0

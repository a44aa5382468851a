"""Seeds: independent streams for independent names, the same on every machine."""

import hashlib

import torch

from sae_lightning.core import derive_seed, torch_generator


def test_the_derivation_never_changes() -> None:
    digest = hashlib.sha256(b"7/tokens/order/3").digest()
    assert derive_seed(7, "tokens", "order", 3) == int.from_bytes(digest[:8], "big") // 2
    assert derive_seed(0) == int.from_bytes(hashlib.sha256(b"0").digest()[:8], "big") // 2


def test_names_and_seeds_give_seeds_of_their_own_that_torch_and_numpy_take() -> None:
    paths = [(), ("a",), ("b",), ("a", "b"), ("b", "a"), ("a", 0), ("a", 1)]
    seeds = [derive_seed(seed, *path) for seed in range(50) for path in paths]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_repeat_and_leave_the_global_one_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    first = torch.rand(8, generator=torch_generator(1, "room", "purpose"))
    again = torch.rand(8, generator=torch_generator(1, "room", "purpose"))
    other = torch.rand(8, generator=torch_generator(1, "room", "other"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.rand(4), expected)

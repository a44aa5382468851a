"""Memory is used again when, and only when, nobody can see it any more."""

import torch

from sae_lightning.activations.cache.recycled import Recycled


def test_a_dropped_tensor_gives_its_memory_to_the_next():
    pool = Recycled((4, 3))
    place = pool.take().data_ptr()
    assert all(pool.take().data_ptr() == place for _ in range(5))


def test_what_is_held_is_not_touched():
    pool = Recycled((4, 3), most=2)
    held = [pool.take().fill_(i) for i in range(5)]
    assert len({tensor.data_ptr() for tensor in held}) == 5
    assert [float(tensor.mean()) for tensor in held] == [0, 1, 2, 3, 4]


def test_views_arrays_and_graphs_hold_it_too():
    pool = Recycled((4, 3))
    view, array = pool.take()[1:, :2], pool.take().numpy()
    weight = torch.ones(3, requires_grad=True)
    product = (pool.take().fill_(2) * weight).sum()
    taken = {view.data_ptr() - 12, array.ctypes.data}
    others = [pool.take().fill_(9) for _ in range(3)]
    assert taken.isdisjoint(tensor.data_ptr() for tensor in others)
    product.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [8, 8, 8]


def test_a_detached_alias_holds_it():
    pool = Recycled((2, 2))
    alias = pool.take().fill_(5).detach()
    pool.take().fill_(7)
    assert alias.tolist() == [[5, 5], [5, 5]]

"""Memory is used again when, and only when, nobody can see it any more."""

import copy
import pickle
import sys
import threading

import pytest
import torch

from sae_lightning.core.recycled import Recycled


def test_a_dropped_tensor_gives_its_memory_to_the_next():
    pool = Recycled()
    place = pool.take((4, 3)).data_ptr()
    assert all(pool.take((4, 3)).data_ptr() == place for _ in range(5))


def test_what_is_held_is_not_touched():
    pool = Recycled(most=2)
    held = [pool.take((4, 3)).fill_(i) for i in range(5)]
    assert len({tensor.data_ptr() for tensor in held}) == 5
    assert [float(tensor.mean()) for tensor in held] == [0, 1, 2, 3, 4]


def test_views_arrays_and_graphs_hold_it_too():
    pool = Recycled()
    view, array = pool.take((4, 3))[1:, :2], pool.take((4, 3)).numpy()
    weight = torch.ones(3, requires_grad=True)
    product = (pool.take((4, 3)).fill_(2) * weight).sum()
    taken = {view.data_ptr() - 12, array.ctypes.data}
    others = [pool.take((4, 3)).fill_(9) for _ in range(3)]
    assert taken.isdisjoint(tensor.data_ptr() for tensor in others)
    product.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [8, 8, 8]


def test_a_detached_alias_holds_it():
    pool = Recycled()
    alias = pool.take((2, 2)).fill_(5).detach()
    pool.take((2, 2)).fill_(7)
    assert alias.tolist() == [[5, 5], [5, 5]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64])
def test_memory_serves_any_shape_and_dtype_of_its_size(dtype):
    pool = Recycled()
    first = pool.take((6, 4), dtype)
    place = first.data_ptr()
    assert (first.shape, first.dtype, first.is_contiguous(), place % 64) == ((6, 4), dtype, True, 0)
    del first
    assert pool.take((3, 8), dtype).data_ptr() == place


def test_a_copy_of_a_pool_shares_nothing_with_it():
    pool = Recycled()
    held = pool.take((2, 2)).fill_(1)
    copied, sent = copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))
    for other in (copied, sent):
        other.take((2, 2)).fill_(3)
    assert held.tolist() == [[1, 1], [1, 1]]


def test_memory_of_another_size_is_let_go():
    pool = Recycled(most=1)
    pool.take((100,))
    place = pool.take((7,)).data_ptr()
    assert pool.take((7,)).data_ptr() == place


def test_what_grows_or_shrinks_a_little_still_fits():
    pool = Recycled()
    first = pool.take((1000, 1000))
    place = first.data_ptr()
    del first
    assert {pool.take((1000 - n, 1000)).data_ptr() for n in range(400)} == {place}


def test_stale_sizes_do_not_pile_up():
    pool = Recycled()
    for n in range(1, 40):
        pool.take((n * 100, 50))
    assert len(pool._arrays) == 1


def test_threads_never_share_what_one_of_them_holds():
    pool, clashes = Recycled(), []

    def work(mark):
        for _ in range(2000):
            held = pool.take((16,)).fill_(mark)
            if not bool((held == mark).all()):
                clashes.append(mark)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not clashes

import pytest
import torch

from sae_lightning.lm import FrozenLM


@pytest.fixture(scope="session")
def tiny():
    return FrozenLM.load("tiny", dtype="float32")


@pytest.fixture(scope="session")
def smollm2():
    return FrozenLM.load("smollm2")


@pytest.fixture(autouse=True)
def one_thread(request):
    """Tiny products are slower on several threads, and far slower on a busy machine."""
    before = torch.get_num_threads()
    if request.node.get_closest_marker("lm") is None:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

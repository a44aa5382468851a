from types import SimpleNamespace

import pytest
import torch

from sae_lightning.activations import Harvester, MaskPolicy, calibrate
from sae_lightning.core import Sites
from sae_lightning.lm import FrozenLM
from sae_lightning.tokens import ListSource, Windows, write_tokens

SITE = "blocks.1.hook_resid_post"
TEXTS = [
    f"document {i}: " + "the quick brown fox jumps over the lazy dog " * (i % 4 + 1) + str(i * i) for i in range(60)
]


@pytest.fixture(scope="session")
def lm():
    return FrozenLM.load("tiny", dtype="bfloat16")


@pytest.fixture(scope="session")
def windows(lm, tmp_path_factory):
    store = write_tokens(ListSource(TEXTS), lm.tokenizer, tmp_path_factory.mktemp("tokens") / "t.bin", vocab_size=257)
    return Windows(store, "train", context_length=16, separator_id=lm.separator_id, seed=0)


@pytest.fixture(scope="session")
def harvester(lm, windows):
    """A harvester with a fitted mask."""
    base = Harvester(lm, Sites((SITE,), (SITE,)), windows, MaskPolicy(lm.special_ids), micro_batch=4)
    return base.with_mask(calibrate(base, 500, seed=0).mask)


@pytest.fixture(scope="session")
def tools(lm, windows, harvester):
    return SimpleNamespace(lm=lm, windows=windows, harvester=harvester)


@pytest.fixture(autouse=True)
def one_thread(request):
    """Tiny products are slower on several threads, and far slower on a busy machine."""
    before = torch.get_num_threads()
    if request.node.get_closest_marker("lm") is None:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

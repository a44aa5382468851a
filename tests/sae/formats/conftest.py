"""Each format in turn, and an SAE written in it."""

import pytest

from sae_lightning.sae import formats
from tests.sae.formats.cases import make
from tests.sae.formats.damage import WEIGHTS


@pytest.fixture(params=list(WEIGHTS))
def form(request):
    return request.param


@pytest.fixture
def folder(form, tmp_path):
    return formats.write(form, make("topk"), tmp_path / "sae")

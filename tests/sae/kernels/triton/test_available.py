import logging
import subprocess
import sys

import pytest
import torch

from sae_lightning.sae.kernels import triton as kernels


@pytest.fixture
def asked_anew():
    kernels._importable.cache_clear()
    yield
    kernels._importable.cache_clear()


def test_a_tensor_on_the_cpu_is_for_the_interpreter_alone(monkeypatch, asked_anew):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not kernels.available(torch.zeros(1))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels.available(torch.zeros(1))
    assert kernels.available(torch.zeros(1, dtype=torch.bfloat16))
    assert not kernels.available(torch.zeros(1, dtype=torch.float64))
    assert not kernels.available(torch.zeros(1, device="meta"))


def test_absence_is_told_once_and_quietly(monkeypatch, asked_anew, caplog):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "triton", None)
    with caplog.at_level(logging.DEBUG, kernels.__name__):
        assert not any(kernels.available(torch.zeros(1)) for _ in range(3))
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_every_name_is_found():
    pytest.importorskip("triton")
    assert all(getattr(kernels, name) is not None for name in kernels.__all__)
    with pytest.raises(AttributeError, match="no attribute 'sum_row'"):
        kernels.sum_row  # noqa: B018  # the access is what is tested


def test_the_room_is_imported_without_triton():
    code = """
import sys
sys.modules["triton"] = None
import torch
from sae_lightning.sae.kernels import pattern_of, sparse_decode, triton
pattern = pattern_of(torch.arange(6), torch.arange(4) * 2, 8)
sparse_decode(torch.ones(6), pattern, torch.randn(8, 4))
assert not triton.available(torch.zeros(1))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

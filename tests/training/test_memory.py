"""What a run needs in memory, by counting, and the refusal with the numbers."""

from types import SimpleNamespace

import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.sae import architecture_names, sae_class
from sae_lightning.training import memory
from sae_lightning.training.memory import available_memory, check_memory, estimate

CPU = torch.device("cpu")


def need(d_sae: int = 24, *, sparse: bool = True, lm_bytes: int = 0) -> memory.MemoryNeed:
    return estimate(
        d_in=16,
        d_out=16,
        d_sae=d_sae,
        batch_size=64,
        buffer_rows=100,
        row_bytes=32,
        sparse=sparse,
        lm_bytes=lm_bytes,
        block_bytes=2**20,
    )


@pytest.mark.parametrize("name", architecture_names())
def test_the_parts_are_those_of_a_real_sae(name: str) -> None:
    sae = sae_class(name)(16, 64)
    size = sum(p.numel() * p.element_size() for p in sae.parameters())
    optimizer = torch.optim.Adam(sae.parameters())
    for p in sae.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    moments = sum(v.numel() * 4 for state in optimizer.state.values() for k, v in state.items() if k != "step")
    found = need(64)
    slack = 4 * 64  # architectures have one, two or three numbers a feature beside the matrices
    assert abs(found.sae - size) <= slack
    assert abs(found.gradients - size) <= slack
    assert abs(found.adam - moments) <= 2 * slack


def test_the_other_parts_by_hand() -> None:
    found = need(lm_bytes=10**9)
    assert found.buffer == 2 * 100 * 32
    assert found.pre_activations == 1.5 * 64 * 24 * 4
    assert need(sparse=False).pre_activations == 4 * 64 * 24 * 4
    assert need(2**20).pre_activations == 1.5 * 2**20  # in blocks
    assert found.lm == 10**9
    # The language model is there already.
    assert found.total == found.sae + found.gradients + found.adam + found.buffer + found.pre_activations


def test_what_is_nothing_is_not_described() -> None:
    text = need(2**16).describe()
    assert text.startswith("SAE 9, gradients 9, Adam 17, ")
    assert "LM" not in text


def test_a_run_that_cannot_fit_stops_with_the_numbers(monkeypatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: 3 * 2**29)
    check_memory(need(), CPU)
    with pytest.raises(UserError) as raised:
        check_memory(need(2**26), CPU)
    text = str(raised.value)
    total = need(2**26).total / 2**30
    assert f"needs {total:.1f} GiB more on cpu" in text
    assert "1.5 GiB are free" in text
    assert "SAE 8,704, gradients 8,704, Adam 17,408" in text
    assert "lower sae.d_sae, data.buffer_tokens or data.batch_size" in text


def test_exactly_what_is_free_fits(monkeypatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: need().total)
    check_memory(need(), CPU)
    monkeypatch.setattr(memory, "available_memory", lambda device: need().total - 1)
    with pytest.raises(UserError):
        check_memory(need(), CPU)


@pytest.mark.parametrize(
    ("limit", "used", "cached", "expected"),
    [
        ("max", "5", "0", 10**12),
        ("1000", "400", "0", 600),
        ("1000", "400", "150", 750),  # page cache is given up when somebody needs it
        (f"{10**13}", "0", "0", 10**12),
        (None, None, None, 10**12),
    ],
)
def test_a_containers_limit_counts(limit: str, used: str, cached: str, expected: int, monkeypatch) -> None:
    files = {"max": limit, "current": used, "stat": f"anon 77\ninactive_file {cached}\nactive_file 88"}

    class Cgroup:
        def __init__(self, path: str) -> None:
            self.text = files[path.removeprefix("/sys/fs/cgroup/memory.")]

        def is_file(self) -> bool:
            return limit is not None

        def read_text(self) -> str:
            return self.text + "\n"

    monkeypatch.setattr(memory, "Path", Cgroup)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**12))
    assert available_memory(CPU) == expected

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae_lightning.activations import ActivationFile, ActivationSource, FileSource, StopRequested
from sae_lightning.core import UserError


@pytest.fixture
def rows():
    return torch.randn(103, 7, generator=torch.Generator().manual_seed(0))


def write(path, rows):
    if path.suffix == ".npy":
        np.save(path, rows.numpy())
    else:
        save_file({"activations": rows}, path)
    return path


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("a.npy", torch.float16),
        ("a.npy", torch.float32),
        ("a.npy", torch.float64),
        ("a.safetensors", torch.float16),
        ("a.safetensors", torch.bfloat16),
        ("a.safetensors", torch.float32),
        ("a.safetensors", torch.float64),
    ],
)
def test_every_format_gives_its_rows_as_float32(tmp_path, rows, name, dtype):
    file = ActivationFile(write(tmp_path / name, rows.to(dtype)))
    assert (file.n, file.d, file.dtype) == (103, 7, dtype)
    numbers = np.array([5, 102, 0, 5, 17])
    assert torch.equal(file.rows(numbers), rows.to(dtype)[torch.from_numpy(numbers)].float())
    assert torch.equal(file.slice(10, 20), rows.to(dtype)[10:20].float())
    file.check_finite()


def test_fortran_order_and_foreign_byte_order(tmp_path, rows):
    np.save(tmp_path / "f.npy", np.asfortranarray(rows.numpy()))
    np.save(tmp_path / "b.npy", rows.numpy().astype(">f4"))
    for name in ("f.npy", "b.npy"):
        assert torch.equal(ActivationFile(tmp_path / name).rows(np.arange(103)), rows)


def test_each_epoch_holds_every_row_once_in_its_own_order(tmp_path, rows):
    source = FileSource(write(tmp_path / "a.npy", rows), 10, seed=0)
    assert isinstance(source, ActivationSource)
    batches = list(itertools.islice(source, 31))
    index = torch.cat([b.token_index for b in batches])
    assert torch.equal(torch.cat([b.x for b in batches]), rows[index])
    epochs = [index[i * 103 : (i + 1) * 103] for i in range(3)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(103))
    assert not torch.equal(epochs[0], epochs[1])


def test_seed_and_exact_resume(tmp_path, rows):
    path = write(tmp_path / "a.safetensors", rows)

    def take(source, n):
        return torch.cat([b.x for b in itertools.islice(source, n)])

    whole = take(FileSource(path, 10), 40)
    assert not torch.equal(whole, take(FileSource(path, 10, seed=1), 40))
    source = FileSource(path, 10)
    for done in range(0, 300, 50):
        fresh = FileSource(path, 10)
        fresh.load_state_dict(source.state_dict())
        assert torch.equal(take(fresh, 6), whole[done : done + 60])
        assert torch.equal(take(source, 5), whole[done : done + 50])
    mark = source.snapshot()
    ahead = take(source, 2)
    fresh.load_state_dict(source.state_dict(mark))
    assert torch.equal(take(fresh, 2), ahead)


def test_a_sample_moves_nothing(tmp_path, rows):
    source = FileSource(write(tmp_path / "a.npy", rows), 10)
    sample = source.sample(50)
    assert sample.shape == (50, 7)
    assert len(source.sample(1000)) == 103
    assert torch.equal(sample, source.sample(50))
    assert source.snapshot() == 0


def test_stop(tmp_path, rows):
    source = FileSource(write(tmp_path / "a.npy", rows), 10)
    source.request_stop()
    with pytest.raises(StopRequested):
        next(iter(source))
    source.resume()
    assert len(source.next()) == 10


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_named(tmp_path, rows, value):
    rows[41, 3] = float(value)
    path = write(tmp_path / "bad.npy", rows)
    with pytest.raises(UserError, match=r"bad\.npy: row 41 holds NaN or infinity"):
        list(itertools.islice(FileSource(path, 10), 11))
    with pytest.raises(UserError, match="row 41"):
        ActivationFile(path).check_finite()


def test_float64_that_overflows_float32_is_named(tmp_path, rows):
    big = rows.double()
    big[3] = 1e300
    with pytest.raises(UserError, match=r"row 3 .*as float32"):
        ActivationFile(write(tmp_path / "a.npy", big)).check_finite()


def test_mistakes(tmp_path, rows):
    path = write(tmp_path / "a.npy", rows)
    for arguments, message in [
        (("/no/file.npy", 4), "does not exist"),
        ((tmp_path, 4), "is a folder"),
        ((path, 104), "has 103 rows, fewer than data.batch_size=104"),
        ((path, 0), "at least 1"),
    ]:
        with pytest.raises(UserError, match=message):
            FileSource(*arguments)
    with pytest.raises(UserError, match="width 7, must have 8"):
        FileSource(path, 4, d_in=8)
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"unknown kind '\.pt'"):
        ActivationFile(tmp_path / "a.pt")
    for array, message in [
        (np.zeros((3, 4, 5)), r"shape \(3, 4, 5\)"),
        (np.zeros((0, 5)), "is empty"),
        (np.zeros((3, 4), dtype=np.int64), "dtype int64"),
        (np.array([{}]), "can't be read"),
    ]:
        np.save(tmp_path / "bad.npy", array)
        with pytest.raises(UserError, match=message):
            ActivationFile(tmp_path / "bad.npy")


@pytest.mark.parametrize("name", ["a.npy", "a.safetensors"])
@pytest.mark.parametrize("kept", [0, 5, 60, 500])
def test_torn_files_are_named(tmp_path, rows, name, kept):
    path = write(tmp_path / name, rows)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=f"{name}: can't be read"):
        ActivationFile(path)


def test_tensors_of_a_safetensors_file(tmp_path, rows):
    path = tmp_path / "many.safetensors"
    save_file({"x": rows, "y": rows * 2, "n": torch.zeros(3, dtype=torch.int64)}, path)
    assert torch.equal(ActivationFile(path, key="y").slice(0, 3), rows[:3] * 2)
    with pytest.raises(UserError, match="2 matrices"):
        ActivationFile(path)
    with pytest.raises(UserError, match="no tensor 'z'"):
        ActivationFile(path, key="z")
    with pytest.raises(UserError, match="dtype I64"):
        ActivationFile(path, key="n")
    save_file({"x": rows, "n": torch.zeros(3)}, path)
    assert ActivationFile(path).d == 7


def test_a_state_of_another_file_is_refused(tmp_path, rows):
    state = FileSource(write(tmp_path / "a.npy", rows), 10).state_dict()
    other = FileSource(write(tmp_path / "b.npy", rows + 1), 10)
    with pytest.raises(UserError, match="file was"):
        other.load_state_dict(state)


def test_targets_go_with_their_rows_wherever_they_are_asked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 6)).astype(np.float32)
    y = np.concatenate([x.sum(1, keepdims=True), 2 * x[:, :2]], axis=1)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    source = FileSource(tmp_path / "x.npy", 64, seed=3, rows=(100, 400), targets=tmp_path / "y.npy")
    assert (source.d_in, source.d_out) == (6, 3)

    def belong(rows: torch.Tensor, targets: torch.Tensor | None) -> None:
        assert targets is not None
        torch.testing.assert_close(targets, torch.cat([rows.sum(1, keepdim=True), 2 * rows[:, :2]], 1))

    for batch, _ in zip(source, range(8), strict=False):  # over the end of an epoch
        belong(batch.x, batch.y)
    belong(source.sample(50), source.sample_targets(50))
    belong(source.rows_between(7, 90), source.targets_between(7, 90))
    plain = FileSource(tmp_path / "x.npy", 64, seed=3, rows=(100, 400))
    assert plain.sample_targets(50) is None
    with pytest.raises(UserError, match="targets was None"):
        source.load_state_dict(plain.state_dict())
    np.save(tmp_path / "short.npy", y[:-1])
    with pytest.raises(UserError, match="different masks of tokens"):
        FileSource(tmp_path / "x.npy", 64, targets=tmp_path / "short.npy")

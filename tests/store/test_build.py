"""Builds that are interrupted, chunked, repeated: always the same bytes."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_lightning.core import UserError
from sae_lightning.store import FeatureStore, manifest, transpose, writer
from tests.store.planted import planted_store


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Killed(BaseException):
    """Ends a build as a kill does, where no handler of ours catches it."""


def failing_after(calls: int) -> Callable[[Any], Any]:
    """Return a wrap of the function that reads windows: it dies at its n-th call."""

    def wrap(encode: Any) -> Any:
        left = [calls]

        def counted(numbers: list[int]) -> Any:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return encode(numbers)

        return counted

    return wrap


@pytest.mark.parametrize("every", [0.0, 3600.0])
def test_a_killed_build_goes_on_and_gives_the_same_bytes(tmp_path: Path, every: float) -> None:
    whole = contents(planted_store(tmp_path, name="whole").store.path)
    read: list[int] = []

    def counting(wrap: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda encode: wrap(lambda numbers: (read.extend(numbers), encode(numbers))[1])

    for calls in (0, 2, 5):
        with pytest.raises(Killed):
            planted_store(tmp_path, name="cut", wrap=counting(failing_after(calls)), journal_seconds=every)
        assert not (tmp_path / "cut").exists()
        # What came after the last journal is garbage: it is cut off, whatever it is.
        for name in ("lengths", "csr.indices"):
            with open(tmp_path / "cut.partial" / f"{name}.npy", "ab") as file:
                file.write(b"garbage")
    done = planted_store(tmp_path, name="cut", wrap=counting(lambda encode: encode))
    assert contents(done.store.path) == whole
    assert not (tmp_path / "cut.partial").exists()
    if every == 0:
        assert len(read) == len(set(read)), "journalled windows are not read again"
    done.store.verify(show=False)


@pytest.mark.parametrize("step", ["write_offsets", "write_columns", "checksums"])
def test_a_kill_in_the_last_steps_loses_no_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    whole = contents(planted_store(tmp_path, name="whole").store.path)

    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(writer, step, dies)
        with pytest.raises(Killed):
            planted_store(tmp_path, name="cut")
    done = planted_store(tmp_path, name="cut", wrap=failing_after(0))
    assert contents(done.store.path) == whole


def test_how_many_windows_are_read_at_once_changes_nothing(tmp_path: Path) -> None:
    whole = contents(planted_store(tmp_path, name="whole").store.path)
    for unit in (1, 2, 1000):
        assert contents(planted_store(tmp_path, name=f"by{unit}", unit=unit).store.path) == whole


def test_how_many_pairs_are_turned_at_once_changes_no_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = planted_store(tmp_path, name="whole")
    for chunk in (1, 7, 100):
        monkeypatch.setattr(transpose, "_CHUNK", chunk)
        cut = planted_store(tmp_path, name=f"by{chunk}")
        for name, data in contents(whole.store.path).items():
            if name.startswith("cs"):
                assert (cut.store.path / name).read_bytes() == data, name
        # Sums of other chunks round otherwise: the chunk is a constant of the package.
        assert np.allclose(cut.store.stats.squares, whole.store.stats.squares, rtol=1e-12)
        assert np.array_equal(cut.store.stats.largest, whole.store.stats.largest)


def test_from_two_to_the_31_pairs_on_numbers_are_wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = planted_store(tmp_path, name="narrow")
    for module in (transpose, writer):
        monkeypatch.setattr(module, "index_dtype", lambda nnz: np.dtype("<i8"))
    wide = planted_store(tmp_path, name="wide").store
    assert wide.csr.indices.dtype == wide.csc.offsets.dtype == np.int64
    assert np.array_equal(wide.to_scipy().toarray(), narrow.dense)
    assert np.array_equal(wide.to_scipy("feature").toarray(), narrow.dense)
    # Whether scipy copies can only be seen where an offset needs int64: it narrows small ones.
    wide.verify(show=False)


def test_a_store_that_is_there_is_not_built_again(tmp_path: Path) -> None:
    first = planted_store(tmp_path)
    again = planted_store(tmp_path, wrap=failing_after(0))
    assert contents(again.store.path) == contents(first.store.path)
    with pytest.raises(UserError, match="holds another store"):
        planted_store(tmp_path, seed=1)
    assert contents(first.store.path) == contents(again.store.path)


def test_overwrite_makes_a_damaged_store_again(tmp_path: Path) -> None:
    planted = planted_store(tmp_path)
    whole = contents(planted.store.path)
    for do, _ in (DAMAGE["cut"], DAMAGE["broken manifest"], DAMAGE["version"], DAMAGE["gone"]):
        do(planted.store.path)
        with pytest.raises(UserError):
            planted_store(tmp_path)
        assert contents(planted_store(tmp_path, overwrite=True).store.path) == whole
    data = bytearray((planted.store.path / "csr.values.npy").read_bytes())
    data[-1] ^= 1
    (planted.store.path / "csr.values.npy").write_bytes(data)
    assert contents(planted_store(tmp_path, overwrite=True).store.path) == whole


@pytest.mark.parametrize("after", ["finished", "old moved", "both moved"])
def test_a_kill_between_the_renames_loses_neither_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    first = planted_store(tmp_path, seed=1)
    before = contents(first.store.path)
    wanted = contents(planted_store(tmp_path, name="other").store.path)
    left = {"finished": 0, "old moved": 1, "both moved": 2}[after]
    replace = Path.replace

    def counted(self: Path, target: Any) -> Path:
        nonlocal left
        if self.name in ("store", "store.partial"):
            if not left:
                raise Killed
            left -= 1
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted)
        if left < 2:
            with pytest.raises(Killed):
                planted_store(tmp_path, overwrite=True)
        else:
            planted_store(tmp_path, overwrite=True)
    kept = tmp_path / (".store.old" if after == "old moved" else "store")
    assert contents(kept) == (wanted if after == "both moved" else before)
    # What was finished is not read again.
    done = planted_store(tmp_path, overwrite=True, wrap=failing_after(0))
    assert contents(done.store.path) == wanted
    assert sorted(p.name for p in tmp_path.iterdir() if "store" in p.name) == ["store"]


def test_links_are_followed_and_places_that_are_none_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "store").symlink_to("real")
    assert planted_store(tmp_path).store.path == (tmp_path / "real").resolve()
    assert (tmp_path / "store").is_symlink()
    monkeypatch.setattr("os.path.ismount", lambda _: True)
    with pytest.raises(UserError, match="is where a disk is mounted"):
        planted_store(tmp_path, name="disk")
    for place in ("/", "."):
        with pytest.raises(UserError, match="is no feature store"):
            FeatureStore.open(place)


def test_nothing_but_a_store_is_ever_replaced(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.txt").write_text("ten years")
    with pytest.raises(UserError, match="exists and is no feature store"):
        planted_store(tmp_path)
    assert (tmp_path / "store" / "thesis.txt").read_text() == "ten years"


def test_a_begun_store_of_something_else_is_started_again(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        planted_store(tmp_path, seed=1, wrap=failing_after(2))
    done = planted_store(tmp_path, seed=0)
    assert contents(done.store.path) == contents(planted_store(tmp_path, name="other").store.path)


def read_all(path: str) -> float:
    store = FeatureStore.open(path)
    return float(sum(store.top_tokens(f, 5).values.sum() for f in range(store.d_sae)))


def test_several_processes_read_at_once(tmp_path: Path) -> None:
    planted = planted_store(tmp_path)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(read_all, [str(planted.store.path)] * 4)
    assert found == [read_all(str(planted.store.path))] * 4


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut": (lambda s: (s / "csc.values.npy").write_bytes((s / "csc.values.npy").read_bytes()[:-4]), "csc.values.npy"),
    "gone": (lambda s: (s / "position.npy").unlink(), "position.npy.*cannot be read"),
    "other dtype": (lambda s: np.save(s / "kept.npy", np.zeros(7)), "kept.npy.*cut off or damaged"),
    "no manifest": (lambda s: (s / "manifest.json").unlink(), "is no feature store"),
    "broken manifest": (lambda s: (s / "manifest.json").write_text("{"), "cannot be read"),
    "other manifest": (lambda s: (s / "manifest.json").write_text("{}"), "is no manifest of a feature store"),
    "list": (lambda s: (s / "manifest.json").write_text("[]"), "is no manifest of a feature store"),
    "version": (lambda s: edit(s, version=9), "version 9"),
    "missing key": (lambda s: edit(s, nnz=None), "lacks a part"),
    "extra key": (lambda s: edit(s, more=1), "lacks a part or has one too many"),
    "missing array": (lambda s: edit(s, files={}), "lacks the array"),
    "changed by hand": (
        lambda s: (s / "manifest.json").write_text(
            (s / "manifest.json").read_text().replace('"d_sae": 12', '"d_sae": 13')
        ),
        "manifest.json: is not as it was written",
    ),
}


def edit(store: Path, **changes: Any) -> None:
    value = json.loads((store / "manifest.json").read_text()) | changes
    value = {key: one for key, one in value.items() if one is not None and key not in ("format", "version", "xxh3")}
    said = {"format": "sae_lightning.store", "version": changes.get("version", 1)}
    (store / "manifest.json").write_text(json.dumps({**said, **value, "xxh3": manifest._hash(value)}))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    path = planted_store(tmp_path).store.path
    do, words = DAMAGE[damage]
    do(path)
    with pytest.raises(UserError, match=words) as error:
        FeatureStore.open(path)
    assert "\n" not in str(error.value)


def test_a_flipped_bit_is_found_by_the_checksums(tmp_path: Path) -> None:
    path = planted_store(tmp_path).store.path
    data = bytearray((path / "csr.values.npy").read_bytes())
    data[200] ^= 1
    (path / "csr.values.npy").write_bytes(data)
    store = FeatureStore.open(path)
    with pytest.raises(UserError, match=r"csr\.values\.npy: is not as it was written"):
        store.verify(show=False)


def test_what_is_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; make one with"):
        FeatureStore.open(tmp_path / "nowhere")
    with pytest.raises(Killed):
        planted_store(tmp_path, wrap=failing_after(1))
    with pytest.raises(UserError, match="was begun and is not finished"):
        FeatureStore.open(tmp_path / "store")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        FeatureStore.open(tmp_path / "file")

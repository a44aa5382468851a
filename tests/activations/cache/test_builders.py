"""Who builds a cache: stopped and killed builders, several at once, and those who wait."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from sae_lightning.activations import StopRequested
from sae_lightning.activations.cache import CacheRequest
from sae_lightning.activations.cache import request as request_module
from sae_lightning.tokens import WindowSample

from ..conftest import SITE
from .conftest import MICRO_BATCH, OTHER, build, content, plain_rows


@pytest.mark.parametrize("stop_at", [1, 4, 9])
def test_a_stopped_build_goes_on_and_only_the_unfinished_shard_is_repeated(lm, sample, built, tmp_path, stop_at):
    calls = 0

    def check():
        nonlocal calls
        calls += 1
        if calls > stop_at:
            raise StopRequested

    with pytest.raises(StopRequested):
        build(lm, sample, tmp_path, (SITE, OTHER), check=check)
    finished = content(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    assert len(finished) == 2 * 2 * (stop_at // 3)
    before = lm.windows_read
    build(lm, sample, tmp_path, (SITE, OTHER))
    left = len(sample) - 12 * (stop_at // 3)
    assert lm.windows_read - before == -(-left // MICRO_BATCH) * MICRO_BATCH
    assert content(tmp_path) == content(built.root)


BUILDER = """
import sys, time, torch
torch.set_num_threads(1)
from pathlib import Path
from sae_lightning.activations.cache import CacheRequest, ensure
from sae_lightning.lm import FrozenLM
from sae_lightning.tokens import TokenStore, Windows, WindowSample
lm = FrozenLM.load("tiny", dtype="bfloat16")
slow = float(sys.argv[3])
real = lm.activations
lm.activations = lambda *a: (time.sleep(slow), real(*a))[1]
windows = Windows(TokenStore.open(sys.argv[1]), "train", context_length=16, separator_id=lm.separator_id, seed=0)
print("ready", flush=True)
request = CacheRequest(WindowSample(windows, 101), ("blocks.1.hook_resid_post", "blocks.0.hook_mlp_out"))
ensure(lm, [request], root=Path(sys.argv[2]), micro_batch=4, shard_bytes=16_000)
print("read", lm.windows_read, flush=True)
"""


def builder(sample, root, slow=0.0):
    arguments = [sys.executable, "-c", BUILDER, str(sample.store.path), str(root), str(slow)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def test_killed_builds_leave_nothing_behind(lm, sample, built, tmp_path):
    """SIGKILL at several places; the last call finds finished shards, and ends with the bytes of an unbroken build."""
    for shards in (0, 2, 5):
        process = builder(sample, tmp_path, slow=0.05)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            done = [p for p in tmp_path.rglob("shard-*.safetensors") if ".index" not in p.name]
            writing = list(tmp_path.rglob("*.tmp"))
            if len(done) >= 2 * shards and writing:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()
    before = lm.windows_read
    build(lm, sample, tmp_path, (SITE, OTHER))
    assert lm.windows_read - before <= (101 - 5 * 12) + 2 * MICRO_BATCH
    assert content(tmp_path) == content(built.root)
    assert not list(tmp_path.rglob("*.tmp"))


def test_of_several_processes_one_builds_and_the_others_wait(sample, built, tmp_path):
    processes = [builder(sample, tmp_path, slow=0.02) for _ in range(3)]
    read = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        read.append(int(out.split()[-1]))
    assert sorted(read)[:2] == [0, 0]
    assert max(read) == 104, "26 micro-batches"
    assert content(tmp_path) == content(built.root)


def test_waiting_shows_the_builders_shards(lm, sample, tmp_path):
    """What is shown while somebody else has the lock is read from the manifests."""
    look = request_module._waiting(lm, [CacheRequest(sample, (SITE, OTHER))], tmp_path, MICRO_BATCH)
    assert look() == (0, 202, 0)
    build(lm, sample, tmp_path)
    shards = -(-101 // 12)
    assert look() == (101, 202, shards)


def test_a_stop_is_heard_while_waiting(lm, sample, tmp_path):
    from sae_lightning.core.locks import file_lock

    def check():
        raise StopRequested

    with file_lock(tmp_path / ".build.lock"), pytest.raises(StopRequested):
        build(lm, sample, tmp_path, check=check)


def test_leftovers_of_a_killed_builder_are_removed_by_the_next(lm, sample, tmp_path):
    (caches,) = build(lm, WindowSample(sample.base, 12), tmp_path)
    folder = caches[SITE].folder
    for name in ("shard-00001.safetensors", "shard-00001.index.safetensors", ".shard-00002.safetensors.tmp"):
        (folder / name).write_bytes(b"torn")
    (grown,) = build(lm, sample, tmp_path)
    assert torch.equal(grown[SITE].gather(np.arange(grown[SITE].n_rows)), plain_rows(lm, sample, SITE).x)
    assert not list(folder.glob("*.tmp"))

"""The lock between processes: one at a time, freed when its holder is killed."""

import subprocess
import sys
import time
from pathlib import Path

from sae_lightning.core.locks import file_lock

HOLDER = (
    "import sys, time; from sae_lightning.core.locks import file_lock\n"
    "with file_lock(sys.argv[1]):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(float(sys.argv[2]))\n"
    "    print('leaving', flush=True)\n"
)

ADD_ONE = (
    "import sys, time, pathlib; from sae_lightning.core.locks import file_lock\n"
    "count = pathlib.Path('count')\n"
    "for _ in range(20):\n"
    "    with file_lock('lock'):\n"
    "        value = int(count.read_text())\n"
    "        time.sleep(0.001)\n"
    "        count.write_text(str(value + 1))\n"
)


def hold(path: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_waits(tmp_path: Path) -> None:
    path = tmp_path / "made" / "lock"
    holder = hold(path, 0.3)
    started = time.monotonic()
    with file_lock(path):
        waited = time.monotonic() - started
        assert holder.stdout is not None
        assert holder.stdout.readline() == "leaving\n"
    assert waited > 0.1
    assert holder.wait() == 0
    assert not path.exists()


def test_a_killed_holder_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = hold(path, 60)
    holder.kill()
    holder.wait()
    assert path.exists()
    with file_lock(path):
        pass
    assert not path.exists()


def test_it_is_freed_by_an_exception_too(tmp_path: Path) -> None:
    for _ in range(2):  # the second time would wait for ever
        try:
            with file_lock(tmp_path / "lock"):
                raise RuntimeError
        except RuntimeError:
            pass


def test_no_update_is_lost_between_three_processes(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    workers = [subprocess.Popen([sys.executable, "-c", ADD_ONE], cwd=tmp_path) for _ in range(3)]
    assert [w.wait() for w in workers] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "60"

"""A real Slurm of one node on this machine's loopback, with a key, sockets, ports and a folder of its own."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
GPUS = ("/dev/null", "/dev/zero")  # no GPUs: Slurm counts device files, and nothing here runs on them


def install() -> None:
    """Install Debian's Slurm where it is missing; skip where that cannot be, but fail in CI."""
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    if all(map(shutil.which, PROGRAMS)):
        return
    try:
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "-y", "slurm-wlm", "munge"]):
            subprocess.run(["apt-get", "-qq", *words], check=True, env=env, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = f"Slurm is not installed, and cannot be here: {error}"
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)


class OneNode:
    """The cluster: ``start`` brings it up and sets SLURM_CONF, ``stop`` ends its jobs and daemons."""

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.folder = folder
        self.cpus = cpus
        self.conf = folder / "slurm.conf"
        self.munged: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        install()
        host = socket.gethostname().split(".")[0]
        for name in ("state", "spool", "log"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self.munged = subprocess.Popen(
            [
                "munged",
                "--foreground",
                "--force",
                f"--socket={self.folder / 'munge.socket'}",
                f"--key-file={key}",
                f"--pid-file={self.folder / 'munged.pid'}",
                f"--log-file={self.folder / 'log' / 'munged.log'}",
                f"--seed-file={self.folder / 'munged.seed'}",
            ],
            stderr=subprocess.DEVNULL,
        )
        (self.folder / "gres.conf").write_text("".join(f"Name=gpu Type=fake File={file}\n" for file in GPUS))
        self.conf.write_text(
            _CONF.format(host=host, folder=self.folder, cpus=self.cpus, gpus=len(GPUS), ports=_two_ports())
        )
        os.environ["SLURM_CONF"] = str(self.conf)
        self._until(lambda: (self.folder / "munge.socket").exists(), "munged")
        subprocess.run(["slurmctld"], check=True)
        subprocess.run(["slurmd"], check=True)
        self._until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"), "slurmd")

    def ask(self, *words: str) -> str:
        """Run one of Slurm's commands and return what it printed."""
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()

    def stop(self) -> None:
        if "SLURM_CONF" in os.environ:
            self.ask("scancel", "--me")
            with suppress(AssertionError):
                self._until(lambda: not self.ask("squeue", "-h"), "scancel")
        for name in ("slurmd", "slurmctld"):
            with suppress(OSError, ValueError):
                os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGTERM)
        if self.munged is not None:
            self.munged.terminate()
            self.munged.wait()
        os.environ.pop("SLURM_CONF", None)

    def _until(self, there, what: str, seconds: float = 40) -> None:
        end = time.monotonic() + seconds
        while not there():
            logs = "\n".join(f"{p}\n{p.read_text(errors='replace')[-2000:]}" for p in self.folder.glob("log/*"))
            assert time.monotonic() < end, f"{what} did not come up\n{logs}"
            time.sleep(0.1)


def _two_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


_CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=1
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmUser=root
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
ReturnToService=2
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
KillWait=20
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 Gres=gpu:fake:{gpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

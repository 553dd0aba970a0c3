"""Files that are whole or not there at all, and reading that names what is damaged."""

from __future__ import annotations

import fcntl
import glob
import os
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EAGAIN, EDQUOT, EEXIST, EMFILE, ENOLCK, ENOSPC, ENOTEMPTY, ENOTSUP, EPERM
from pathlib import Path

from neurondynamics.runtime import human_size

LOCK = "writer.lock"
# why a file cannot be read that may well be sound, and what to do
SOUND = {
    EAGAIN: "is open in another program; close it there, and run again",
    ENOLCK: "lies on a file system without locks; set HDF5_USE_FILE_LOCKING=FALSE, and run again",
    ENOTSUP: "lies on a file system without locks; set HDF5_USE_FILE_LOCKING=FALSE, and run again",
    EACCES: "may not be read by you; change its permissions, and run again",
    EPERM: "may not be read by you; change its permissions, and run again",
    EMFILE: "is one of too many open files; raise the limit with ulimit -n, and run again",
}


class NoSpaceError(OSError):
    """Says what could not be written, how much room it needs and how much is free."""

    def __init__(self, path: str | Path, needed: str, number: int):
        free = human_size(shutil.disk_usage(Path(path).parent).free)
        super().__init__(
            number,
            f"{os.strerror(number)}: writing {path} needs {needed} and {free} are free there; "
            "nothing half written is left, make room and run again",
        )
        self.needed = needed


@contextmanager
def replacing(path: str | Path, size: int = 0) -> Iterator[Path]:
    """Yield a temporary path of the same name, and rename it to `path` once the block succeeds.

    The file is flushed to disk before the rename, so an interruption leaves no half-written file
    under the final name; a failure removes the temporary file. So does the next writer of `path`
    if this one is killed, but it leaves alone what another process is still writing.

    `size` is the number of bytes to be written, if it is known. Raises NoSpaceError where the disk
    has no room for them, or the block finds the disk full or a quota used up.
    """
    path = Path(path)
    with _staging(path, size) as staging:
        temporary = staging / path.name
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)


@contextmanager
def replacing_folder(path: str | Path, size: int = 0) -> Iterator[Path]:
    """Yield an empty folder that takes the place of the folder `path` once the block succeeds.

    As `replacing` does for a file. What is only needed on the way may lie beside the yielded
    folder, in its parent, which is removed in the end.
    """
    path = Path(path)
    with _staging(path, size) as staging:
        staged = staging / path.name
        staged.mkdir()
        yield staged
        for file in filter(Path.is_file, staged.rglob("*")):
            _flush(file)
        while True:
            with suppress(FileNotFoundError):
                os.rename(path, staging / f"replaced-{secrets.token_hex(4)}")
            try:
                os.rename(staged, path)
                break
            except OSError as error:
                if error.errno not in (EEXIST, ENOTEMPTY):
                    raise  # otherwise another writer was faster, and is replaced


@contextmanager
def _staging(path: Path, size: int) -> Iterator[Path]:
    """Yield a folder beside `path` that is locked while this process lives and removed after."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    require_space(path, size)
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        staging.mkdir()
        with open(staging / f"new-{LOCK}", "w") as lock:
            with suppress(OSError):  # a file system without locks: what a kill leaves stays
                fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(lock.name, staging / LOCK)  # nobody sees it before it is locked
            yield staging
    except Exception as error:
        number = _full_disk(error)
        if number is None:
            raise
        written = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file())
        shutil.rmtree(staging, ignore_errors=True)  # before what is free is measured
        needed = human_size(size) if size else f"more than {human_size(written)}"
        if isinstance(error, NoSpaceError):  # of something on the way to this
            needed = error.needed
        raise NoSpaceError(path, needed, number) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left: folders whose lock nobody holds."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}"):
        try:
            with open(folder / LOCK, "r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:  # its writer was killed before it had a lock, or is about to
            if not folder.exists() or time.time() - folder.stat().st_mtime < 60:
                continue
        except OSError:  # at work, or a file system without locks
            continue
        shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def require_space(path: str | Path, size: int) -> None:
    """Raise NoSpaceError if the disk has no room for `size` bytes beside `path`."""
    if size > shutil.disk_usage(Path(path).parent).free:
        raise NoSpaceError(path, human_size(size), ENOSPC)


def _full_disk(error: Exception) -> int | None:
    """Return ENOSPC or EDQUOT if an error says so; libraries in Rust only do in their words."""
    if isinstance(error, OSError):
        number = error.errno
    else:
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else None
    return number if number in (ENOSPC, EDQUOT) else None


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn whatever a block that only reads `path` raises into an error that names it.

    That is a ValueError with the command that rebuilds the file; but an OSError, with another
    remedy, where the file is sound for all we know: open elsewhere, locked, forbidden, not there.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        number = _errno(error)
        if not os.path.lexists(path):
            raise unusable(path, "is not there") from error
        if number in SOUND:
            raise OSError(number, f"{os.strerror(number)}: {path} {SOUND[number]}") from error
        said = " ".join(str(error).split())
        raise unusable(path, f"cannot be read or is damaged ({said})") from error


def _errno(error: Exception) -> int | None:
    """Return the number of an error of the system; HDF5 only tells it in its words."""
    if "already open for" in str(error):
        return EAGAIN
    found = re.search(r"errno = (\d+)", str(error))
    return int(found[1]) if found else getattr(error, "errno", None)


def unusable(path: str | Path, reason: str) -> ValueError:
    """Return the error for a file that has to be made anew, with the command for it."""
    return ValueError(
        f"{path} {reason}; rebuild it, with the options that the study is run with: "
        f"snakemake --cores all --force {shlex.quote(str(path))}"
    )

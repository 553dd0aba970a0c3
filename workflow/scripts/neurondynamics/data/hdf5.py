"""HDF5 files in which damage cannot pass unnoticed, and whose writing can fail cleanly."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from neurondynamics.data.files import reading, replacing
from neurondynamics.data.provenance import check_place, place_of

TEXT_CHUNK = 2**18  # bytes; a chunk of 4 GiB could be written, but not read


class Sink(io.FileIO):
    """The file that HDF5 writes into: a write that fails is remembered, and raised by `check`.

    HDF5 cannot give a write up. Closing a file on a full disk fails, its handles stay open, and
    the process crashes when it ends. So HDF5 is told that all is well, and nothing more is written.
    """

    error: OSError | None = None

    def write(self, data) -> int:
        rest = memoryview(data)
        size = len(rest)
        try:
            while len(rest) and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def check(self) -> None:
        """Raise the error of the first write that failed, if any."""
        if self.error is not None:
            raise self.error


@contextmanager
def create_hdf5(path: str | Path, size: int) -> Iterator[tuple[h5py.File, Sink]]:
    """Open a new HDF5 file for writing; it appears under its name once it is whole.

    It records its place.

    `size` is the number of bytes to be written. Raises OSError where the disk has no room for
    them or is full on the way; the sink tells so in the midst of a long piece of work.
    """
    with replacing(path, size) as temporary, Sink(temporary, "w+") as sink:
        try:
            # only the newest format has checksums for all that is not data
            with h5py.File(sink, "w", libver="latest") as file:
                for name, place in place_of(path).items():
                    write_attribute(file, name, place)
                yield file, sink
        finally:
            sink.check()


def create_dataset(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype, chunks: tuple[int, ...]
) -> h5py.Dataset:
    """Create a dataset with checksums, in chunks of at most the given shape."""
    chunks = tuple(map(min, chunks, shape))
    return file.create_dataset(name, shape, dtype, chunks=chunks, fletcher32=True)


def write_texts(file: h5py.File, name: str, texts: list[str]) -> None:
    """Write texts of any lengths as a group: one array of `bytes`, and the `ends` of texts in it.

    HDF5's own texts have no checksum where their lengths differ.
    """
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)  # (n,)
    joined = np.frombuffer(b"".join(encoded) or b"\0", np.uint8)  # there are no empty datasets
    create_dataset(file, f"{name}/bytes", joined.shape, "u1", (TEXT_CHUNK,))[:] = joined
    create_dataset(file, f"{name}/ends", ends.shape, "i8", (TEXT_CHUNK // 8,))[:] = ends


def read_texts(file: h5py.File, name: str) -> list[str]:
    """Read what `write_texts` wrote. Raises ValueError, naming the file, for damage."""
    with reading(file.filename):
        joined, ends = file[f"{name}/bytes"][:].tobytes(), file[f"{name}/ends"][:].tolist()
        return [joined[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]


def write_attribute(file: h5py.File, name: str, value: str | int | float | bool) -> None:
    """Write an attribute, a text in a way that has a checksum."""
    if isinstance(value, str):
        encoded = value.encode()
        value = np.array(encoded, h5py.string_dtype("utf-8", len(encoded)))
    file.attrs[name] = value


def read_attributes(file: h5py.File) -> dict:
    """Return all attributes as Python has them. Raises ValueError, naming the file, for damage."""
    with reading(file.filename):
        return {name: _plain(value) for name, value in file.attrs.items()}


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


def open_hdf5(path: str | Path) -> h5py.File:
    """Open a file for reading.

    Raises ValueError, naming it, if it is truncated or damaged, or was written to another place.
    """
    with reading(path):
        file = h5py.File(path, "r")
    check_place(path, read_attributes(file))
    return file


def read_dataset(file: h5py.File, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Read rows of a dataset. Raises ValueError, naming the file, for damage."""
    with reading(file.filename):
        return file[name][rows]

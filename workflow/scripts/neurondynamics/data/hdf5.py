"""HDF5 files in which damage cannot pass unnoticed, and whose writing can fail cleanly."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from neurondynamics.data.files import reading, replacing


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

    `size` is the number of bytes to be written. Raises OSError where the disk has no room for
    them or is full on the way; the sink tells so in the midst of a long piece of work.
    """
    with replacing(path, size) as temporary, Sink(temporary, "w+") as sink:
        try:
            # only the newest format has checksums for all that is not data
            with h5py.File(sink, "w", libver="latest") as file:
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
    """Write a dataset of texts. They get one length: HDF5 has no checksum for those of many."""
    encoded = np.array([text.encode() for text in texts])
    dtype = h5py.string_dtype("utf-8", encoded.itemsize)
    create_dataset(file, name, encoded.shape, dtype, encoded.shape)[:] = encoded.astype(dtype)


def write_attribute(file: h5py.File, name: str, value: str | int | float | bool) -> None:
    """Write an attribute, a text in a way that has a checksum."""
    if isinstance(value, str):
        encoded = value.encode()
        value = np.array(encoded, h5py.string_dtype("utf-8", len(encoded)))
    file.attrs[name] = value


def read_attributes(file: h5py.File) -> dict:
    """Return all attributes, texts as `str`. Raises ValueError, naming the file, for damage."""
    with reading(file.filename):
        plain = dict(file.attrs)
        return {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in plain.items()
        }


def open_hdf5(path: str | Path) -> h5py.File:
    """Open a file for reading. Raises ValueError, naming it, if it is truncated or damaged."""
    with reading(path):
        return h5py.File(path, "r")


def read_dataset(file: h5py.File, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Read rows of a dataset. Raises ValueError, naming the file, for damage."""
    with reading(file.filename):
        return file[name][rows]

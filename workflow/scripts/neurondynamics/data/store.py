"""The activation store: mean activations of every neuron per prompt, in HDF5.

Layout: `prompt_ids` (n,), `prompts` (n,), `tokens` (n, T) int32 with -1 after a continuation's
end, `lengths` (n,), and per layer `mean/00`, `mean/01`, ... (n, d_mlp) float32: means over the
new-token positions. Datasets are chunked by row block and carry Fletcher-32 checksums, so that a
flipped bit is an error on reading. The attributes say how the store was made.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py
import numpy as np

from neurondynamics.data.records import package_versions, replacing
from neurondynamics.runtime import human_size

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
ROWS_PER_CHUNK = 64


def rows_of_shard(rows: int, shard: str) -> slice:
    """Return which of `rows` rows the shard "2-of-4" holds; sizes differ by one at most."""
    number, total = (int(part) for part in shard.split("-of-"))
    if total > rows:
        raise ValueError(f"{rows} prompts cannot be split into {total} shards; lower shards")
    return slice(rows * (number - 1) // total, rows * number // total)


class StoreWriter:
    """Writes the rows of one store, block by block and each row once."""

    def __init__(self, file: h5py.File, prompts: int, new_tokens: int, layers: int, neurons: int):
        self._file = file
        self._written = 0
        self._texts: list[str] = []
        self._dataset("prompt_ids", (prompts,), "i4")
        self._dataset("tokens", (prompts, new_tokens), "i4")
        self._dataset("lengths", (prompts,), "i4")
        for layer in range(layers):
            self._dataset(f"mean/{layer:02d}", (prompts, neurons), "f4")

    def _dataset(self, name: str, shape: tuple[int, ...], dtype) -> None:
        chunks = (min(ROWS_PER_CHUNK, shape[0]), *shape[1:])
        self._file.create_dataset(name, shape, dtype, chunks=chunks, fletcher32=True)

    def append(
        self,
        prompt_ids: Sequence[int],
        prompts: Sequence[str],
        tokens: np.ndarray,
        lengths: np.ndarray,
        means: np.ndarray,
    ) -> None:
        """Write the next rows: tokens (b, T), lengths (b,), means (layers, b, d_mlp).

        Raises ValueError, naming the prompt, where a mean is NaN or infinite.
        """
        finite = np.isfinite(means).all(axis=(0, 2))  # (b,)
        if not finite.all():
            row = int(np.argmin(finite))
            layer = int(np.argmin(np.isfinite(means[:, row]).all(axis=1)))
            raise ValueError(
                f"activations of layer {layer} are NaN or infinite for prompt "
                f"{prompt_ids[row]}: {prompts[row]!r}"
            )
        rows = slice(self._written, self._written + len(prompts))
        self._file["prompt_ids"][rows] = prompt_ids
        self._texts += prompts
        self._file["tokens"][rows] = tokens
        self._file["lengths"][rows] = lengths
        for layer, values in enumerate(means):
            self._file[f"mean/{layer:02d}"][rows] = values
        self._written = rows.stop

    def finish(self) -> None:
        """Mark the store as complete. Raises ValueError if rows are missing."""
        expected = self._file["lengths"].shape[0]
        if self._written != expected:
            raise ValueError(f"{self._written} of {expected} rows were written")
        # of fixed length, since HDF5 has no checksum for strings of variable length
        encoded = np.array([text.encode() for text in self._texts])
        self._dataset("prompts", encoded.shape, h5py.string_dtype("utf-8", encoded.itemsize))
        self._file["prompts"][:] = encoded.astype(self._file["prompts"].dtype)
        self._file.attrs["complete"] = True


@contextmanager
def create_store(
    path: str | Path,
    *,
    prompts: int,
    new_tokens: int,
    layers: int,
    neurons: int,
    attributes: dict,
) -> Iterator[StoreWriter]:
    """Open a new store for writing; it appears under its name once it is whole.

    `attributes` are recorded beside the schema version and the package versions; nested values
    as JSON. The size is logged before anything is written.
    """
    size = prompts * (layers * neurons + new_tokens + 2) * 4
    logger.info(
        "store %s: %d prompts x %d layers x %d neurons, %s",
        path, prompts, layers, neurons, human_size(size),
    )  # fmt: skip
    with replacing(path) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        for name, value in {**attributes, "packages": package_versions()}.items():
            plain = isinstance(value, str | int | float)
            file.attrs[name] = value if plain else json.dumps(value, sort_keys=True)
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.attrs["complete"] = False
        writer = StoreWriter(file, prompts, new_tokens, layers, neurons)
        yield writer
        writer.finish()


class ActivationStore:
    """Reads a store that consists of one or more shard files, in the order given.

    Raises ValueError if a file is unreadable, incomplete, of another schema, or does not match
    the first in shape; the message names the file. Use as a context manager.
    """

    def __init__(self, paths: Sequence[str | Path]):
        with ExitStack() as opened:
            self._files = [opened.enter_context(_open_complete(path)) for path in paths]
            self._check_shapes(paths)
            self._close = opened.pop_all().close
        first = self._files[0]
        self.layers = len(first["mean"])
        self.neurons = first["mean/00"].shape[1]
        self.attributes = dict(first.attrs)
        self.prompt_ids = self._all("prompt_ids")  # (n,)
        self.prompts = [text.decode() for text in self._all("prompts")]
        self.tokens = self._all("tokens")  # (n, T)
        self.lengths = self._all("lengths")  # (n,)

    def _check_shapes(self, paths: Sequence[str | Path]) -> None:
        shapes = [(len(file["mean"]), file["mean/00"].shape[1]) for file in self._files]
        for path, shape in zip(paths, shapes, strict=True):
            if shape != shapes[0]:
                raise ValueError(f"{path} has another number of layers or neurons than {paths[0]}")

    def __enter__(self) -> ActivationStore:
        return self

    def __exit__(self, *_) -> None:
        self._close()

    def __len__(self) -> int:
        return len(self.lengths)

    def _all(self, name: str) -> np.ndarray:
        return np.concatenate([_read(file[name], slice(None)) for file in self._files])

    def blocks(self, layer: int, rows: int = 256) -> Iterator[np.ndarray]:
        """Yield one layer's mean activations in blocks of at most `rows` prompts, (b, d_mlp)."""
        for file in self._files:
            dataset = file[f"mean/{layer:02d}"]
            for start in range(0, dataset.shape[0], rows):
                yield _read(dataset, slice(start, start + rows))

    def mean(self, layer: int) -> np.ndarray:
        """Return the mean over prompts of one layer's activations, (d_mlp,) float64."""
        return sum(block.sum(axis=0, dtype=np.float64) for block in self.blocks(layer)) / len(self)

    def continuations(self) -> list[list[int]]:
        """Return the stored new tokens of each prompt, without padding."""
        pairs = zip(self.tokens, self.lengths, strict=True)
        return [row[:length].tolist() for row, length in pairs]


def _read(dataset: h5py.Dataset, rows: slice) -> np.ndarray:
    try:
        return dataset[rows]
    except OSError as error:
        raise ValueError(
            f"{dataset.file.filename}: {dataset.name} is damaged ({error}); delete the file and "
            "run snakemake again"
        ) from error


def _open_complete(path: str | Path) -> h5py.File:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{path} is not a readable HDF5 file ({error}); delete and rebuild it"
        ) from error
    if not file.attrs.get("complete", False):
        raise ValueError(f"{path} is not complete; delete it and run snakemake again")
    if file.attrs["schema_version"] != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {file.attrs['schema_version']}, this code reads "
            f"{SCHEMA_VERSION}; delete it and run snakemake again"
        )
    return file

"""The activation store: mean activations of every neuron and head per prompt, in HDF5.

Layout: `prompt_ids` (n,), `prompts/bytes`, the texts one after the other in UTF-8, and where they
end there, `prompts/ends` (n,), `tokens` (n, T) int32 with -1 after a continuation's end, `lengths`
(n,), and per layer `mean/00`, `mean/01`, ... (n, d_mlp) float32: means over the new-token
positions of what the down projection reads, and `heads/00`, ... (n, heads · head_width) of what
attention's output projection reads. Datasets are chunked by row block and all content carries
checksums, so that a flipped bit is an error on reading. The attributes say how the store was made.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py
import numpy as np

from neurondynamics.data.files import reading, unusable
from neurondynamics.data.hdf5 import (
    Sink,
    create_dataset,
    create_hdf5,
    open_hdf5,
    read_attributes,
    read_dataset,
    read_texts,
    write_attribute,
    write_texts,
)
from neurondynamics.data.provenance import UNRECORDED, check_made, check_shards, plain
from neurondynamics.data.records import package_versions
from neurondynamics.limits import ROWS_PER_CHUNK
from neurondynamics.runtime import human_size

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 3
MEANS = {"mlp": "mean", "attention": "heads"}  # module -> the group of its means
# what stores that are compared have in common, as far as it is recorded
COMMON = ("prompt_set_digest", "max_prompt_tokens", "dtype")


class StoreWriter:
    """Writes the rows of one store, block by block and each row once."""

    def __init__(
        self,
        file: h5py.File,
        sink: Sink,
        prompts: int,
        new_tokens: int,
        layers: int,
        widths: Mapping[str, int],
    ):
        self._file, self._sink = file, sink
        self._written = 0
        self._texts: list[str] = []
        self._dataset("prompt_ids", (prompts,), "i4")
        self._dataset("tokens", (prompts, new_tokens), "i4")
        self._dataset("lengths", (prompts,), "i4")
        for module, group in MEANS.items():
            for layer in range(layers):
                self._dataset(f"{group}/{layer:02d}", (prompts, widths[module]), "f4")

    def _dataset(self, name: str, shape: tuple[int, ...], dtype) -> None:
        # Compressed, means of activations take 15 % less and three times as long to read:
        # tests/benchmarks/scale.py
        create_dataset(self._file, name, shape, dtype, (ROWS_PER_CHUNK, *shape[1:]))

    def append(
        self,
        prompt_ids: Sequence[int],
        prompts: Sequence[str],
        tokens: np.ndarray,
        lengths: np.ndarray,
        means: Mapping[str, np.ndarray],
    ) -> None:
        """Write the next rows: tokens (b, T), lengths (b,), and of each module what its projection
        reads, (layers, b, inputs).

        Raises ValueError, naming the prompt, where a mean is NaN or infinite, and OSError where
        the disk is full.
        """
        for of_module in means.values():
            finite = np.isfinite(of_module).all(axis=(0, 2))  # (b,)
            if not finite.all():
                row = int(np.argmin(finite))
                layer = int(np.argmin(np.isfinite(of_module[:, row]).all(axis=1)))
                raise ValueError(
                    f"activations of layer {layer} are NaN or infinite for prompt "
                    f"{prompt_ids[row]}: {prompts[row]!r}"
                )
        rows = slice(self._written, self._written + len(prompts))
        self._file["prompt_ids"][rows] = prompt_ids
        self._texts += prompts
        self._file["tokens"][rows] = tokens
        self._file["lengths"][rows] = lengths
        for module, group in MEANS.items():
            for layer, values in enumerate(means[module]):
                self._file[f"{group}/{layer:02d}"][rows] = values
        self._written = rows.stop
        self._sink.check()

    def finish(self) -> None:
        """Mark the store as complete. Raises ValueError if rows are missing."""
        expected = self._file["lengths"].shape[0]
        if self._written != expected:
            raise ValueError(f"{self._written} of {expected} rows were written")
        write_texts(self._file, "prompts", self._texts)
        write_attribute(self._file, "complete", True)


@contextmanager
def create_store(
    path: str | Path,
    *,
    prompts: int,
    new_tokens: int,
    layers: int,
    widths: Mapping[str, int],
    attributes: dict,
    text_bytes: int = 0,
) -> Iterator[StoreWriter]:
    """Open a new store for writing; it appears under its name once it is whole.

    `widths` says how many inputs each module's projection has in a layer: `mlp` the neurons,
    `attention` all heads' together. `attributes` are recorded beside the schema version and the
    package versions; nested values as JSON. `text_bytes` is how long all prompts are in UTF-8. The
    size is logged before anything is written. Raises OSError where the disk has no room for it.
    """
    size = stored_bytes(prompts, new_tokens, layers, sum(widths.values())) + text_bytes
    logger.info(
        "store %s: %d prompts x %d layers x %d neurons and %d inputs of heads, %s",
        path, prompts, layers, widths["mlp"], widths["attention"], human_size(size),
    )  # fmt: skip
    with create_hdf5(path, size) as (file, sink):
        for name, value in {**attributes, "packages": package_versions()}.items():
            write_attribute(file, name, plain(value))
        write_attribute(file, "schema_version", SCHEMA_VERSION)
        write_attribute(file, "complete", False)
        writer = StoreWriter(file, sink, prompts, new_tokens, layers, widths)
        yield writer
        writer.finish()


def stored_bytes(prompts: int, new_tokens: int, layers: int, inputs: int) -> int:
    """Return the bytes of a store's numbers, with so many `inputs` in a layer of both modules.

    The last chunk of a dataset is stored whole.
    """
    rows = prompts
    if prompts > ROWS_PER_CHUNK:
        rows = math.ceil(prompts / ROWS_PER_CHUNK) * ROWS_PER_CHUNK
    return rows * (layers * inputs + new_tokens + 2) * 4


class ActivationStore:
    """Reads a store that consists of one or more shard files, in the order given.

    `made` are attributes that every file should have, such as the state; `whole` says that the
    files should be all shards. Raises ValueError if a file is unreadable, incomplete, of another
    schema, in the place of another, made otherwise than `made` says or than the first one, or of
    another shape, and for a prompt that two files hold; the message names the file. `widths` says
    how many inputs each module's projection has in a layer. Use as a context manager.
    """

    def __init__(self, paths: Sequence[str | Path], made: Mapping = UNRECORDED, whole: bool = True):
        with ExitStack() as opened:
            self._files = [opened.enter_context(_open_complete(path)) for path in paths]
            self.layers, self.widths = self._shape()
            attributes = [read_attributes(file) for file in self._files]
            for path, of_file in zip(paths, attributes, strict=True):
                check_made(path, of_file, made)
            check_shards(list(paths), attributes, whole)
            self._close = opened.pop_all().close
        self.attributes, self.path = attributes[0], paths[0]
        self.prompt_ids = self._all("prompt_ids")  # (n,)
        self.prompts = [text for file in self._files for text in read_texts(file, "prompts")]
        self.tokens = self._all("tokens")  # (n, T)
        self.lengths = self._all("lengths")  # (n,)
        self._rows = [len(read_dataset(file, "lengths")) for file in self._files]
        if len(set(self.prompt_ids.tolist())) < len(self.prompt_ids):
            raise unusable(paths[-1], "holds a prompt that stands in another file or row too")

    def _shape(self) -> tuple[int, dict[str, int]]:
        shapes = []
        for file in self._files:
            with reading(file.filename):
                widths = {name: file[f"{group}/00"].shape[1] for name, group in MEANS.items()}
                shapes.append((len(file["mean"]), widths))
        for file, shape in zip(self._files, shapes, strict=True):
            if shape != shapes[0]:
                raise ValueError(
                    f"{file.filename} has another number of layers, neurons or inputs of heads "
                    f"than {self._files[0].filename}"
                )
        return shapes[0]

    def __enter__(self) -> ActivationStore:
        return self

    def __exit__(self, *_) -> None:
        self._close()

    def __len__(self) -> int:
        return len(self.lengths)

    def _all(self, name: str) -> np.ndarray:
        return np.concatenate([read_dataset(file, name) for file in self._files])

    def blocks(self, layer: int, rows: int = 256, module: str = "mlp") -> Iterator[np.ndarray]:
        """Yield the means of what a layer's down or output projection reads, (b, inputs), in blocks
        of at most `rows` prompts.

        A block goes on from file to file, so that what is summed over blocks does not depend on
        the number of shards.
        """
        name = f"{MEANS[module]}/{layer:02d}"
        for start in range(0, len(self), rows):
            parts, first = [], 0
            for file, number in zip(self._files, self._rows, strict=True):
                own = slice(max(start - first, 0), min(start + rows - first, number))
                if own.start < own.stop:
                    parts.append(read_dataset(file, name, own))
                    if not np.isfinite(parts[-1]).all():
                        raise unusable(file.filename, f"holds NaN or infinity in layer {layer}")
                first += number
            yield np.concatenate(parts) if len(parts) > 1 else parts[0]

    def mean(self, layer: int, module: str = "mlp") -> np.ndarray:
        """Return the mean over prompts of what a layer's projection reads, (inputs,) float64."""
        blocks = self.blocks(layer, module=module)
        return sum(block.sum(axis=0, dtype=np.float64) for block in blocks) / len(self)

    def continuations(self) -> list[list[int]]:
        """Return the stored new tokens of each prompt, without padding."""
        pairs = zip(self.tokens, self.lengths, strict=True)
        return [row[:length].tolist() for row, length in pairs]


def _open_complete(path: str | Path) -> h5py.File:
    file = open_hdf5(path)
    attributes = read_attributes(file)
    if not attributes.get("complete", False):
        raise unusable(path, "is not complete")
    if attributes["schema_version"] != SCHEMA_VERSION:
        raise unusable(
            path,
            f"has schema version {attributes['schema_version']}, this code reads {SCHEMA_VERSION}",
        )
    return file


def common_to(store: ActivationStore) -> dict:
    """Return what a store records and whatever is compared with it should record too."""
    return {name: store.attributes[name] for name in COMMON if name in store.attributes}


def check_same_prompts(first: ActivationStore, *others: ActivationStore) -> None:
    """Raise ValueError unless all stores hold the same prompts in the same order, read alike."""
    for other in others:
        check_made(other.path, other.attributes, common_to(first))
        if other.prompts != first.prompts:
            raise ValueError(
                f"the stores of the states {first.attributes['state']} and "
                f"{other.attributes['state']} hold different prompts; delete them and run again"
            )

"""The store and the attribution at the shape of a large model: seconds, memory and bytes on disk.

After the default study, in its folder:

    python tests/benchmarks/scale.py --folder FOLDER

FOLDER is made and removed again; the default shape is that of Llama-3.1-8B (32 layers of 14,336
neurons, 1,199 prompts) and needs 12 GB. Activations are drawn from the study's own stores: a column
for each neuron from one neuron of the study and a row for each prompt from one of its prompts, each
value off by up to a thousandth so that none comes twice. Their compressibility is real.

filters      the same store under each HDF5 filter (those of hdf5plugin too if it is installed),
             written in batches and read layer by layer
attribution  `attribute_neurons` on three states' stores and two models of that shape whose
             residual stream is narrow, with all prompts and with a quarter of them
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

sys.path.extend(
    str(Path(__file__).resolve().parents[2] / "workflow" / "scripts" / stage)
    for stage in (".", "attribution")
)

from neurondynamics.data.store import ActivationStore, create_store

BATCH = 256  # prompts
NEW_TOKENS = 20
WIDTH = 64  # of the models' residual stream
CHUNK_ROWS = (16, 64)
FILTERS = {  # each beside a checksum
    "none": {},
    "shuffle, lzf": {"shuffle": True, "compression": "lzf"},
    "shuffle, gzip 1": {"shuffle": True, "compression": "gzip", "compression_opts": 1},
    "shuffle, gzip 4": {"shuffle": True, "compression": "gzip", "compression_opts": 4},
}
STATES = ("base", "tuned", "tuned-on-base-text")


class Activations:
    """Mean activations of a large model, drawn from the stores of a small one."""

    def __init__(self, stores: list[str], layers: int, neurons: int, prompts: int):
        self.layers, self.neurons = layers, neurons
        with ActivationStore(stores) as store:
            self._real = np.stack(
                [np.concatenate(list(store.blocks(layer))) for layer in range(store.layers)]
            )  # (layers, prompts, d_mlp) of the study
        self._rows = np.random.default_rng(0).integers(self._real.shape[1], size=prompts)

    def batch(self, start: int, seed: int = 0) -> np.ndarray:
        """Return the next prompts' activations, (layers, b, d_mlp) float32."""
        rows = self._rows[start : start + BATCH]
        means = np.empty((self.layers, len(rows), self.neurons), np.float32)
        for layer in range(self.layers):
            same = np.random.default_rng([seed, layer])  # the same neurons for every batch
            source = self._real[layer * len(self._real) // self.layers]
            columns = same.integers(source.shape[1], size=self.neurons)
            noise = np.random.default_rng([seed, layer, start])
            means[layer] = source[rows][:, columns]
            means[layer] *= 1 + 1e-3 * noise.standard_normal(means[layer].shape, np.float32)
        return means

    def batches(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row and the activations of every batch."""
        for start in range(0, len(self._rows), BATCH):
            yield start, self.batch(start)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare_filters(path: Path, activations: Activations, prompts: int) -> None:
    """Print what writing and reading the store takes under each filter."""
    filters = dict(FILTERS)
    try:
        import hdf5plugin
    except ImportError:
        print("hdf5plugin is not installed; its filters are left out")
    else:
        filters["bitshuffle, zstd 1"] = dict(hdf5plugin.Bitshuffle(cname="zstd", clevel=1))
        filters["blosc2, zstd 1"] = dict(hdf5plugin.Blosc2(cname="zstd", clevel=1))
    raw = 4 * activations.layers * activations.neurons * prompts
    print(f"filters: {raw / 1e9:.2f} GB of activations")
    print("| filter | rows of a chunk | written in s | read in s | GB on disk | of the data |")
    print("|---|---|---|---|---|---|")
    for name, options in filters.items():
        for rows in CHUNK_ROWS if not options else CHUNK_ROWS[:1]:
            written = write_file(path, activations, prompts, rows, options)
            size = path.stat().st_size
            drop_from_cache(path)
            read = timed(lambda: read_file(path))
            path.unlink()
            figures = f"{written:.1f} | {read:.1f} | {size / 1e9:.2f} | {size / raw:.0%}"
            print(f"| {name} | {rows} | {figures} |", flush=True)


def write_file(
    path: Path, activations: Activations, prompts: int, rows: int, options: dict
) -> float:
    """Write the layers of a store as `create_store` does; return the seconds of writing alone."""
    chunks = (min(rows, prompts), activations.neurons)
    seconds = 0.0
    with h5py.File(path, "w", libver="latest") as file:
        shape = (prompts, activations.neurons)
        datasets = [
            file.create_dataset(
                f"mean/{layer:02d}", shape, "f4", chunks=chunks, fletcher32=True, **options
            )
            for layer in range(activations.layers)
        ]
        for start, means in activations.batches():
            began = time.perf_counter()
            for dataset, values in zip(datasets, means, strict=True):
                dataset[start : start + values.shape[0]] = values
            seconds += time.perf_counter() - began
        began = time.perf_counter()
        file.flush()
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return seconds + time.perf_counter() - began


def drop_from_cache(path: Path) -> None:
    """Make the next reading of a file come from the disk."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_file(path: Path) -> None:
    """Read a file layer by layer, in the blocks in which stores are read."""
    with h5py.File(path, "r") as file:
        for dataset in file["mean"].values():
            for start in range(0, len(dataset), BATCH):
                dataset[start : start + BATCH]


def measure_attribution(folder: Path, activations: Activations, prompts: int) -> None:
    """Print time and peak memory of the attribution, with all prompts and with a quarter."""
    models = [write_model(folder / name, activations, name) for name in ("base", "tuned")]
    print("| prompts | GB of stores | attributed in s | peak memory in MB |")
    print("|---|---|---|---|")
    for number in (prompts // 4, prompts):
        stores = [folder / f"{state}.h5" for state in STATES]
        for state, store in enumerate(stores):
            write_store(store, activations, number, seed=state)
            drop_from_cache(store)
        command = [sys.executable, __file__, "--attribute", *map(str, stores + models)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        size = sum(store.stat().st_size for store in stores)
        print(f"| {number} | {size / 1e9:.1f} | {done.stdout.strip()} |", flush=True)


def write_store(path: Path, activations: Activations, prompts: int, seed: int) -> None:
    """Write the store of one state."""
    sizes = {"layers": activations.layers, "prompts": prompts, "new_tokens": NEW_TOKENS}
    sizes["widths"] = {"mlp": activations.neurons, "attention": WIDTH}
    with create_store(path, attributes={"state": path.stem}, **sizes) as store:
        for start in range(0, prompts, BATCH):
            means = activations.batch(start, seed)[:, : prompts - start]
            rows = range(start, start + means.shape[1])
            tokens = np.zeros((len(rows), NEW_TOKENS), np.int32)
            texts = [f"prompt {row}" for row in rows]
            of_both = {"mlp": means, "attention": means[..., :WIDTH]}
            store.append(list(rows), texts, tokens, np.full(len(rows), NEW_TOKENS), of_both)


def write_model(folder: Path, activations: Activations, name: str) -> Path:
    """Write a random model with as many neurons and a narrow residual stream."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(len(name))
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=WIDTH,
        intermediate_size=activations.neurons,
        num_hidden_layers=activations.layers,
        num_attention_heads=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def attribute(paths: list[str]) -> None:
    """Attribute, and print the seconds and this process's peak memory in MB."""
    from attribute_neurons import attribute_neurons
    from neurondynamics.analysis.changes import Changes, write_changes
    from neurondynamics.analysis.directions import Direction, write_direction

    *stores, base_model, tuned_model = paths
    folder = Path(stores[0]).parent
    vector = np.random.default_rng(0).standard_normal(WIDTH)
    write_direction(folder / "direction.safetensors", Direction(vector, 0.0))
    with ActivationStore(stores[:1]) as store:
        shape = store.layers, store.widths["mlp"]
    write_changes(folder / "changes.h5", Changes(np.ones(shape), np.ones((shape[0], 2))))
    names = ("direction.safetensors", "changes.h5", "neurons.parquet", "p.h5")
    results = [str(folder / name) for name in names]
    seconds = timed(
        lambda: attribute_neurons(
            *([store] for store in stores), base_model, tuned_model, *results, dtype="bfloat16"
        )
    )
    # not getrusage: it would count what the process that started this one had
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(f"{seconds:.1f} | {int(peak) * 1024 / 1e6:.0f}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="made, filled, and removed again")
    parser.add_argument("--stores", nargs="+", help="real stores to draw activations from")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--neurons", type=int, default=14_336)
    parser.add_argument("--prompts", type=int, default=1_199)
    parser.add_argument("--attribute", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attribute:
        attribute(options.attribute)
        return
    if options.folder is None:
        parser.error("--folder is needed")
    default = sorted(map(str, Path("results/smollm2-135m/base/activations/base").glob("*.h5")))
    sizes = (options.layers, options.neurons, options.prompts)
    activations = Activations(options.stores or default, *sizes)
    options.folder.mkdir(parents=True)
    try:
        compare_filters(options.folder / "filtered.h5", activations, options.prompts)
        measure_attribution(options.folder, activations, options.prompts)
    finally:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()

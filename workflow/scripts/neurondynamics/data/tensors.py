"""Small arrays in safetensors, which records the place that it was written to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from neurondynamics.data.files import reading, replacing
from neurondynamics.data.provenance import check_place, place_of


def write_tensors(path: str | Path, tensors: dict[str, np.ndarray]) -> None:
    """Write arrays by their names: all of them or nothing."""
    with replacing(path, sum(tensor.nbytes for tensor in tensors.values())) as temporary:
        save_file(tensors, temporary, place_of(path) or None)


def read_tensors(path: str | Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Read the named arrays that `write_tensors` wrote.

    Raises ValueError, naming the file, if it is damaged, or was written to another place.
    """
    with reading(path), safe_open(path, "numpy") as file:
        recorded = file.metadata() or {}
        tensors = [file.get_tensor(name) for name in names]
    check_place(path, recorded)
    return tensors

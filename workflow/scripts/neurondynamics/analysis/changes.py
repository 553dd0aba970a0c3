"""How far tuning moved neurons and heads, over the tokens of one text that both models read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neurondynamics.data.hdf5 import (
    create_dataset,
    create_hdf5,
    open_hdf5,
    read_attributes,
    read_dataset,
    write_attribute,
)
from neurondynamics.data.provenance import UNRECORDED, check_made, plain


class Changes(NamedTuple):
    """Means over tokens, float64, of the change of a unit from the base to the tuned model.

    neurons  (Δm)², where m is the activation, (layers, d_mlp)
    heads    ‖W Δx‖², where x is what the head reads into the output projection and W its block of
             the base model's, (layers, heads)

    The change of a neuron is the root times ‖v‖, that of a head the root: how far what it writes
    moved, were it written by the base model's weights (SafetyNeuron's score, arXiv 2406.14144, with
    the norm of the vector).
    """

    neurons: np.ndarray
    heads: np.ndarray


def write_changes(path: str | Path, changes: Changes, made: Mapping = UNRECORDED) -> None:
    """Write changes as an HDF5 file; `made` records what they are made from.

    Raises OSError where the disk has no room for it.
    """
    with create_hdf5(path, sum(values.nbytes for values in changes)) as (file, _):
        for name, value in made.items():
            write_attribute(file, name, plain(value))
        for name, values in changes._asdict().items():
            create_dataset(file, name, values.shape, "f8", (1, values.shape[1]))[:] = values


def read_changes(path: str | Path, made: Mapping = UNRECORDED) -> Changes:
    """Read what `write_changes` wrote; `made` is what it should record.

    Raises ValueError, naming the file, if it is damaged or made from other things.
    """
    with open_hdf5(path) as file:
        check_made(path, read_attributes(file), made)
        return Changes(*(read_dataset(file, name) for name in Changes._fields))

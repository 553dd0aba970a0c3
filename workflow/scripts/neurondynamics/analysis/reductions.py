"""The reduction of each prompt, summed over the neurons of a layer and group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neurondynamics.analysis.attribution import GROUPS
from neurondynamics.data.files import unusable
from neurondynamics.data.hdf5 import (
    create_dataset,
    create_hdf5,
    open_hdf5,
    read_attributes,
    read_dataset,
    write_attribute,
)
from neurondynamics.data.provenance import UNRECORDED, check_made, plain

ROWS_PER_CHUNK = 4096
DATASETS = ("reduction", "reduction_same_text", "reduction_value")  # in the order of Reductions


class Reductions(NamedTuple):
    """Per prompt, layer and group of GROUPS, each (prompts, layers, groups) float64.

    own_text   each model on its own text: the reduction
    same_text  both models on the base model's text
    value      of that, what changed value vectors do; the rest is changed activations

    What is left of the reduction, own_text − same_text, is the change of context.
    """

    own_text: np.ndarray
    same_text: np.ndarray
    value: np.ndarray


@contextmanager
def create_reductions(
    path: str | Path, prompts: int, layers: int, made: Mapping = UNRECORDED
) -> Iterator[Reductions]:
    """Open a new file of reductions, to be written layer by layer: `own_text[:, layer] = ...`.

    `made` records what they are made from. The file appears under its name once it is whole. Raises
    OSError where the disk has no room for it.
    """
    shape = (prompts, layers, len(GROUPS))
    with create_hdf5(path, len(DATASETS) * int(np.prod(shape)) * 8) as (file, _):
        write_attribute(file, "groups", " ".join(GROUPS))
        for name, value in made.items():
            write_attribute(file, name, plain(value))
        chunks = (ROWS_PER_CHUNK, 1, len(GROUPS))
        yield Reductions(*(create_dataset(file, name, shape, "f8", chunks) for name in DATASETS))


def read_reductions(path: str | Path, made: Mapping = UNRECORDED) -> Reductions:
    """Read the file of reductions that the attribution wrote.

    `made` is what it should record of what it is made from. Raises ValueError, naming the file, if
    it is damaged or made from other things, where its groups are not GROUPS or a part is missing.
    """
    with open_hdf5(path) as file:
        attributes = read_attributes(file)
        check_made(path, attributes, made)
        names = attributes.get("groups", "").split()
        if names != list(GROUPS):
            raise unusable(path, f"has the groups {', '.join(names)}, not {', '.join(GROUPS)}")
        return Reductions(*(read_dataset(file, name) for name in DATASETS))

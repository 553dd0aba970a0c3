"""The reduction of each prompt, summed over the neurons of a layer and group."""

from __future__ import annotations

from typing import NamedTuple

import h5py
import numpy as np

from neurondynamics.analysis.attribution import GROUPS


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


def read_reductions(path: str) -> Reductions:
    """Read the file of reductions that the attribution wrote.

    Raises ValueError where the file's groups are not GROUPS or a part is missing.
    """
    with h5py.File(path) as file:
        names = tuple(file.attrs["groups"])
        if names != GROUPS:
            raise ValueError(f"{path}: groups {names} instead of {GROUPS}; attribute neurons again")
        datasets = ("reduction", "reduction_same_text", "reduction_value")
        missing = [name for name in datasets if name not in file]
        if missing:
            raise ValueError(f"{path}: no {', '.join(missing)}; attribute neurons again")
        return Reductions(*(file[name][:] for name in datasets))

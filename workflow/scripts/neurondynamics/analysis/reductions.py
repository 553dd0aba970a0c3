"""The reduction of each prompt, summed over the neurons of a layer and group."""

from __future__ import annotations

import h5py
import numpy as np

from neurondynamics.analysis.attribution import GROUPS


def read_reductions(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Read reductions (prompts, layers, len(GROUPS)): on own text, and on the base model's text.

    Raises ValueError where the file's groups are not GROUPS.
    """
    with h5py.File(path) as file:
        names = tuple(file.attrs["groups"])
        if names != GROUPS:
            raise ValueError(f"{path}: groups {names} instead of {GROUPS}; attribute neurons again")
        return file["reduction"][:], file["reduction_same_text"][:]

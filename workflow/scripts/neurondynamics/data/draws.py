"""Which of several things are taken, drawn once and told by a seed."""

from __future__ import annotations

import numpy as np


def drawn(there: int, number: int, seed: int) -> np.ndarray:
    """Return the places of `number` of so many things, in their order, or of all where there are
    not as many. A smaller number drawn with the same seed is among a larger one."""
    return np.sort(np.random.default_rng(seed).permutation(there)[:number])

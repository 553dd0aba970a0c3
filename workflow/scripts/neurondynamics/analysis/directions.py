"""Directions along which a behaviour lies: made of embeddings or of value vectors, written to
files and read from them. Those that are fitted are in `fitting`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurondynamics.data.tensors import read_tensors, write_tensors


@dataclass(frozen=True)
class Direction:
    """w, (d_model,), and the intercept b of the classifier that says toward if x·w + b > 0.

    The intercept is 0 where no classifier was fitted.
    """

    vector: np.ndarray
    intercept: float = 0.0


def embedding_difference(toward: Sequence[np.ndarray], away: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean unembedding of some words minus that of others, (d_model,).

    A word is given as the unembedding rows of its tokens, (tokens, d_model), which are averaged
    first, so that every word weighs the same (arXiv 2411.06424v3).
    """
    means = [np.mean([rows.mean(axis=0) for rows in words], axis=0) for words in (toward, away)]
    return means[0] - means[1]


def singular_direction(values: np.ndarray) -> np.ndarray:
    """Return what value vectors (n, d_model) share most: their first singular vector, (d_model,).

    Each vector is normalised first (Lee et al., arXiv 2401.01967). Of the two signs the one is
    taken whose mean cosine with the vectors is positive.

    Raises ValueError if a value vector is zero or not finite.
    """
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise ValueError("a value vector is zero or not finite, so it has no direction")
    units = values / norms
    singular = np.linalg.svd(units, full_matrices=False).Vh[0]  # (d_model,)
    return -singular if (units @ singular).sum() < 0 else singular


def write_direction(path: str | Path, direction: Direction) -> None:
    """Write a direction as safetensors: `vector` (d_model,) and `intercept`, in float64.

    Raises ValueError if the vector is zero or not finite.
    """
    vector = np.ascontiguousarray(direction.vector, np.float64)
    if not np.isfinite(vector).all() or not vector.any():
        raise ValueError("the direction is zero or not finite")
    write_tensors(path, {"vector": vector, "intercept": np.array([direction.intercept])})


def read_direction(path: str | Path) -> Direction:
    """Read what `write_direction` wrote. Raises ValueError as `read_tensors` does."""
    vector, intercept = read_tensors(path, ("vector", "intercept"))
    return Direction(vector, float(intercept[0]))


def read_vectors(paths: Iterable[str | Path]) -> dict[str, np.ndarray]:
    """Read the vectors of several directions, (d_model,) each, by the names of their files."""
    return {Path(path).stem: read_direction(path).vector for path in paths}

"""Intervals: the bootstrap over prompts, and Wilson's interval of a fraction.

Prompts are the unit of resampling: the tokens, neurons and layers of one prompt go together. What
is resampled together stays paired, so a difference between two models on the same prompts has the
narrow interval that it deserves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

BLOCK_ELEMENTS = 2**22  # float64 numbers of one block of resamples: 32 MiB


ENDS = ("", "_low", "_high")  # of the columns of a table that hold an estimate


class Estimate(NamedTuple):
    """A statistic of all the data and its interval; three arrays of one shape, or three numbers."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def columns(self, *names: str) -> dict[str, np.ndarray]:
        """Return it as columns `name`, `name_low` and `name_high` of a table.

        Several names are those of the rows of an estimate of shape (names, ...).
        """
        rows = [self] if len(names) == 1 else zip(*self, strict=True)
        return {
            name + end: values
            for name, row in zip(names, rows, strict=True)
            for end, values in zip(ENDS, row, strict=True)
        }


@dataclass(frozen=True)
class Statistics:
    """How intervals are made: by how many resamples, how wide, and drawn from which seed."""

    samples: int
    confidence: float
    seed: int

    def estimate(
        self,
        statistic: Callable[..., np.ndarray],
        arrays: Sequence[np.ndarray],
        confidence: float | None = None,
    ) -> Estimate:
        """Return a function of means over prompts with its percentile bootstrap interval.

        `arrays`: each (n, ...), float, the same prompts in the same order; all are resampled
        together. `statistic(*means)` gets the mean of every array over prompts, each
        (resamples, ...), and returns (resamples, ...). `confidence`: another than the record's.

        A prompt with NaN in any array is left out of all of them. Without a complete prompt, value
        and interval are NaN. Where the statistic of a resample is NaN, nothing is known of it: it
        counts as lying beyond both ends of the interval, which may become infinite.

        Raises ValueError for arrays of different lengths, fewer than one sample, or a confidence
        outside of 0 to 1.
        """
        confidence = self.confidence if confidence is None else confidence
        return _bootstrap(statistic, arrays, self.samples, confidence, self.seed)

    def mean(self, values: np.ndarray) -> Estimate:
        """Return the mean over prompts of `values` (n, ...), with its interval, each (...)."""
        return self.estimate(lambda mean: mean, [values])


def _bootstrap(
    statistic: Callable[..., np.ndarray],
    arrays: Sequence[np.ndarray],
    samples: int,
    confidence: float,
    seed: int,
) -> Estimate:
    """Do what `Statistics.estimate` says.

    A mean of a resample is a matrix product with how often it drew each prompt, so no resample is
    ever copied; memory is one block of draws beside `samples` results.
    """
    if samples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"bootstrap needs samples of at least 1 and a confidence between 0 and 1, "
            f"not {samples} and {confidence}"
        )
    columns, shapes = _complete_columns(arrays)  # (n, width)
    n, width = columns.shape

    def evaluate(means: np.ndarray) -> np.ndarray:  # (resamples, width) -> (resamples, ...)
        parts = np.split(means, np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return statistic(
                *(part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True))
            )

    if n == 0:
        unknown = np.full(evaluate(np.full((1, width), np.nan)).shape[1:], np.nan)[()]
        return Estimate(unknown, unknown, unknown)
    value = evaluate(columns.mean(axis=0, keepdims=True))[0]
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK_ELEMENTS // (n + width))
    draws = []
    for start in range(0, samples, block):
        counts = generator.multinomial(n, np.full(n, 1 / n), size=min(block, samples - start))
        draws.append(evaluate(counts @ columns / n))  # (block, ...)
    low, high = _interval(np.concatenate(draws), confidence)
    return Estimate(value, low, high)


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole where the whole is positive, else NaN: there is nothing to share."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def wilson(successes: int, total: int, confidence: float) -> Estimate:
    """Return a fraction with Wilson's score interval (Wilson 1927).

    Raises ValueError unless 0 <= successes <= total and total > 0.
    """
    if not 0 <= successes <= total or total == 0:
        raise ValueError(f"{successes} of {total} is not a fraction")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    fraction = successes / total
    centre = (fraction + z**2 / (2 * total)) / (1 + z**2 / total)
    half = np.sqrt(fraction * (1 - fraction) / total + (z / (2 * total)) ** 2) * z
    half /= 1 + z**2 / total
    # At 0 and 1 the ends are exact; rounding must not push them past the fraction itself.
    return Estimate(fraction, min(centre - half, fraction), max(centre + half, fraction))


def _complete_columns(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    arrays = [np.asarray(array, dtype=np.float64) for array in arrays]
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise ValueError(f"arrays resampled together need one length, not {sorted(lengths)}")
    shapes = [array.shape[1:] for array in arrays]
    n = lengths.pop()
    columns = np.concatenate(
        [
            array.reshape(n, int(np.prod(shape)))
            for array, shape in zip(arrays, shapes, strict=True)
        ],
        axis=1,
    )
    return columns[~np.isnan(columns).any(axis=1)], shapes


def _interval(draws: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends (...) of the middle `confidence` of draws (samples, ...), rounded outward."""
    unknown = np.isnan(draws)
    tail = (1 - confidence) / 2
    low = np.quantile(np.where(unknown, -np.inf, draws), tail, axis=0, method="lower")
    high = np.quantile(np.where(unknown, np.inf, draws), 1 - tail, axis=0, method="higher")
    return low, high

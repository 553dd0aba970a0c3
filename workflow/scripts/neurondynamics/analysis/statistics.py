"""Intervals: the bootstrap over prompts, and Wilson's interval of a fraction.

Prompts are the unit of resampling: the tokens, neurons and layers of one prompt go together. What
is resampled together stays paired, so a difference between two models on the same prompts has the
narrow interval that it deserves.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

logger = logging.getLogger(__name__)

BLOCK_ELEMENTS = 2**21  # float64 numbers of one block of resamples: 16 MiB
LEAST, ENOUGH = 20, 200  # resamples that have ends of an interval at all, and that have firm ones
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
    """How intervals are made: by how many resamples, how wide, and drawn from which seed.

    Raises ValueError for fewer than LEAST resamples, and a confidence outside of 0 to 1.
    """

    samples: int
    confidence: float
    seed: int

    def __post_init__(self):
        _check_confidence(self.confidence)
        if self.samples < LEAST:
            raise ValueError(
                f"statistics.samples: {self.samples} resamples make no interval; set {LEAST} at "
                f"least, better {ENOUGH} or more"
            )
        if self.samples < ENOUGH:
            logger.warning(
                "statistics.samples: the ends of intervals are rough with %d resamples; "
                "%d make them firm",
                *(self.samples, ENOUGH),
            )

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
        and interval are NaN; from a single one, which shows no spread, the interval is. Where the
        statistic of a resample is NaN, nothing is known of it: it counts as lying beyond both ends
        of the interval. Where that leaves no end, as for a ratio whose denominator may be zero, the
        statistic is undefined: value and interval are NaN.

        Raises ValueError for arrays of different lengths, and a confidence outside of 0 to 1.
        """
        confidence = self.confidence if confidence is None else confidence
        _check_confidence(confidence)
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
    ever copied; memory is a few blocks of draws beside the results outside of the interval.
    """
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
    if n == 1:
        unknown = np.full(value.shape, np.nan)[()]
        return Estimate(value, unknown, unknown)
    tails = _Tails(samples, confidence)
    for start in range(0, samples, block):
        counts = generator.multinomial(n, np.full(n, 1 / n), size=min(block, samples - start))
        tails.add(evaluate(counts @ columns / n))  # (block, ...)
    low, high = tails.ends()
    vague = np.isneginf(low) & np.isposinf(high)
    return Estimate(*(np.where(vague, np.nan, part)[()] for part in (value, low, high)))


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
    # at 0 and 1 the ends are exact; rounding must not push them beyond, or past the fraction
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Estimate(fraction, min(low, fraction), max(high, fraction))


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


class _Tails:
    """The ends of the middle `confidence` of draws (samples, ...), rounded outward.

    Only the draws outside of it are kept. Draws that are NaN lie beyond both ends.
    """

    def __init__(self, samples: int, confidence: float):
        tail = (1 - confidence) / 2
        below = math.floor((samples - 1) * tail)  # order statistics, from 0
        above = math.ceil((samples - 1) * (1 - tail))
        self._numbers = below + 1, samples - above
        self._kept: tuple[np.ndarray, np.ndarray] | None = None  # lowest, and highest negated

    def add(self, draws: np.ndarray) -> None:
        unknown = np.isnan(draws)
        sides = [np.where(unknown, -np.inf, sign * draws) for sign in (1, -1)]
        if self._kept is not None:
            sides = [np.concatenate(pair) for pair in zip(self._kept, sides, strict=True)]
        self._kept = tuple(
            np.partition(side, number - 1, axis=0)[:number] if len(side) > number else side
            for side, number in zip(sides, self._numbers, strict=True)
        )

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        lowest, highest = self._kept
        return lowest.max(axis=0), -highest.max(axis=0)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, which {confidence} does not")

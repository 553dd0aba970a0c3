"""Going on with half a batch where memory runs out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")
Rows = TypeVar("Rows", bound=Sequence)

REMEDY = "give the job a GPU or a node with more, or load the model as model.dtype: bfloat16"


def halving(rows: Rows, work: Callable[[Rows], T]) -> Iterator[tuple[Rows, T]]:
    """Yield rows with work(rows): all at once or, where memory runs out, half after half.

    Every call starts with all of its rows, so that what is computed for a batch depends on that
    batch alone and not on those before it. Raises MemoryError if memory is short for a single row.
    """
    waiting = [rows]
    while waiting:
        some = waiting.pop()
        done, result = _attempt(some, work)
        if done:
            yield some, result
            continue
        if len(some) == 1:
            raise MemoryError(f"memory ran out for a single text; {REMEDY}")
        half = len(some) // 2
        logger.warning("memory ran out with %d texts at a time; going on with %d", len(some), half)
        waiting += [some[half:], some[:half]]


def fitting(number: int, work: Callable[[int], T]) -> T:
    """Return work(number) or, where memory runs out, work of half the number, and so on.

    Raises MemoryError if memory is short for an odd number, which has no half.
    """
    while True:
        done, result = _attempt(number, work)
        if done:
            return result
        if number % 2:
            raise MemoryError(f"memory ran out for {number} at a time; {REMEDY}")
        number //= 2
        logger.warning(
            "memory ran out with %d at a time; starting again with %d", 2 * number, number
        )


def _attempt(amount, work: Callable[..., T]) -> tuple[bool, T | None]:
    """Return whether memory sufficed, and the result; what failed is freed before it returns."""
    try:
        return True, work(amount)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    gc.collect()  # the traceback is gone only now, and with it the tensors that it held
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False, None


def out_of_memory(error: Exception) -> bool:
    """Return whether an error says that the memory of a GPU or of the machine ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)

"""Damage to files, bit by bit."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest


def flip(path: Path, place: int, bit: int = 2) -> None:
    """Flip one bit of a file; a place below 0 counts from its end."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def count_detected(path: Path, read: Callable[[], object], number: int, message: str) -> int:
    """Flip a bit of a file at `number` random places, and return how often `read` says so.

    Fails if what is read is not what it was, where the ValueError of a damaged file does not hold
    `message`, and unless a file that is cut off at one of the places is refused. The file is whole
    again in the end.
    """
    content, expected = path.read_bytes(), read()
    detected, draw = 0, random.Random(0)
    for _ in range(number):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        path.write_bytes(content[:place])
        with pytest.raises(ValueError) as refused:  # noqa: PT011
            read()
        assert message in str(refused.value)
        path.write_bytes(content)
        flip(path, place, bit)
        try:
            assert read() == expected
        except ValueError as error:
            assert message in str(error)  # noqa: PT017
            detected += 1
    path.write_bytes(content)
    return detected

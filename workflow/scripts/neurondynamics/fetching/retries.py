"""Trying a download again after what may pass."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAUSES = (2.0, 10.0)  # seconds before the second and the third attempt


class Interruption(Exception):
    """What went wrong with an attempt, and may not go wrong with the next."""


def retried(attempt: Callable[[], T], what: str, advice: str) -> T:
    """Return what `attempt` returns, in up to three attempts.

    Raises ValueError with `advice` and the words of the last Interruption if each ends in one, and
    at once whatever else an attempt raises.
    """
    for pause in (*PAUSES, None):
        try:
            return attempt()
        except Interruption as error:
            if pause is None:
                tried = f"could not be downloaded in {len(PAUSES) + 1} attempts"
                raise ValueError(f"{what} {tried}. {advice} {error}") from error
            reason = str(error).splitlines()[-1]
            logger.warning("%s: trying again in %.0f s. %s", what, pause, reason)
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")

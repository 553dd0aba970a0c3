"""Which device a process computes on; of several GPUs, one that no other process has."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

PAUSE = 5.0  # seconds between two looks for a free GPU


@cache
def resolve_device(device: str) -> torch.device:
    """Turn `auto` into a GPU where there is one, else the CPU; `cuda` insists on a GPU.

    The GPU is this process's own until the process ends, however it ends: Snakemake hands out
    numbers of GPUs, not which ones. A job of SLURM with one GPU has that one already.
    Whatever runs in this process afterwards sees that GPU alone, TRL's trainer too.
    Raises ValueError for `cuda` on a machine without a GPU.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device == "cpu" or not torch.cuda.device_count():
        if device == "cuda":
            raise ValueError(
                "device: cuda, but no GPU is to be seen here "
                f"(CUDA_VISIBLE_DEVICES={given}); use a machine with one, or device: cpu"
            )
        logger.info("computing on the CPU (CUDA_VISIBLE_DEVICES=%s)", given)
        return torch.device("cpu")
    handed_out = "SLURM_JOB_ID" in os.environ and len(visible_gpus()) == 1
    if not handed_out and not _claims:
        # CUDA reads this when it is first used, which device_count() is not
        os.environ["CUDA_VISIBLE_DEVICES"] = claim(visible_gpus(), Path(tempfile.gettempdir()))
    chosen = torch.device("cuda", 0)
    name = torch.cuda.get_device_name(chosen)
    logger.info("computing on %s (CUDA_VISIBLE_DEVICES=%s)", name, visible_gpus()[0])
    return chosen


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = map(str, range(torch.cuda.device_count()))
    return [name.strip() for name in given.split(",")] if given else list(numbers)


def claim(gpus: Sequence[str], folder: Path) -> str:
    """Return one of the GPUs that no other process of this user has claimed, once there is one.

    A claim is a lock on a file in `folder`, which the operating system lifts when the process ends.
    """
    waiting = False
    while True:
        for gpu in gpus:
            name = gpu.replace("/", "-")  # parts of a GPU have names with slashes
            lock = FileLock(folder / f"neurondynamics-{os.getuid()}-gpu-{name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            _claims.append(lock)
            return gpu
        if not waiting:
            logger.info("waiting for a GPU: %s are taken", ", ".join(gpus))
            waiting = True
        time.sleep(PAUSE)


_claims: list[FileLock] = []  # a lock is lifted when nothing refers to it any more

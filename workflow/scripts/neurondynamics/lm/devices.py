"""Which device a process computes on; of several GPUs, one that no other process has."""

from __future__ import annotations

import logging
import os
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
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
    Whatever runs in this process afterwards sees that GPU alone, TRL's trainer too. Of several
    processes that were started together, each has its own of the GPUs that `take_gpus` claimed.
    Raises ValueError for `cuda` on a machine without a GPU.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not is_gpu(device):
        if device == "cuda":
            raise ValueError(
                "device: cuda, but no GPU is to be seen here "
                f"(CUDA_VISIBLE_DEVICES={given}); use a machine with one, or device: cpu"
            )
        logger.info("computing on the CPU (CUDA_VISIBLE_DEVICES=%s)", given)
        return torch.device("cpu")
    if "LOCAL_RANK" in os.environ:  # as torch numbers processes that are started together
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    else:
        take_gpus(1)
        chosen = torch.device("cuda", 0)
    name = torch.cuda.get_device_name(chosen)
    logger.info("computing on %s (CUDA_VISIBLE_DEVICES=%s)", name, visible_gpus()[chosen.index])
    return chosen


def is_gpu(device: str) -> bool:
    """Return whether a `device` as configured means a GPU here."""
    return device != "cpu" and torch.cuda.device_count() > 0


def take_gpus(number: int) -> None:
    """Claim some GPUs and let this process, and those that it starts, see no others.

    Raises ValueError if there are not as many.
    """
    gpus = visible_gpus()
    if number > len(gpus):
        raise ValueError(f"gpus: {number}, but there are only {len(gpus)} here: {', '.join(gpus)}")
    handed_out = "SLURM_JOB_ID" in os.environ and len(gpus) == number
    if not handed_out and not _claims:
        # CUDA reads this when it is first used, which device_count() is not
        folder = Path(tempfile.gettempdir())
        os.environ["CUDA_VISIBLE_DEVICES"] = claim(gpus, folder, number)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = map(str, range(torch.cuda.device_count()))
    return [name.strip() for name in given.split(",")] if given else list(numbers)


def claim(gpus: Sequence[str], folder: Path, number: int = 1) -> str:
    """Return GPUs that no other process of this user has claimed, once there are as many.

    A claim is a lock on a file in `folder`, which the operating system lifts when the process ends.
    Where fewer are free, none is kept: two processes could wait for each other's for ever.
    """
    waiting = False
    while True:
        free = {}
        for gpu in gpus:
            name = gpu.replace("/", "-")  # parts of a GPU have names with slashes
            lock = FileLock(folder / f"neurondynamics-{os.getuid()}-gpu-{name}.lock")
            with suppress(Timeout):
                lock.acquire(timeout=0)
                free[gpu] = lock
            if len(free) == number:
                _claims.extend(free.values())
                return ",".join(free)
        for lock in free.values():
            lock.release()
        if not waiting:
            taken = [gpu for gpu in gpus if gpu not in free]
            wanted = "a GPU" if number == 1 else f"{number} GPUs"
            logger.info("waiting for %s: %s are taken", wanted, ", ".join(taken))
            waiting = True
        time.sleep(PAUSE * random.uniform(0.8, 1.2))  # not in step with another that waits


_claims: list[FileLock] = []  # a lock is lifted when nothing refers to it any more

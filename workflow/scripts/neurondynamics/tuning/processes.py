"""Running a function in several processes of one machine that work together."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from neurondynamics.lm.memory import out_of_memory
from neurondynamics.runtime import start_log


def run_together(function: Callable[..., None], number: int, *arguments) -> None:
    """Call function(*arguments) in `number` processes, as `accelerate launch` would start them.

    Accelerate, and so TRL's trainer, finds in the environment which of them it is. With one, it
    runs in this process. The function is importable and the arguments can be pickled. When one
    process fails the others are ended: raises MemoryError if memory ran out in the one that failed
    first, else RuntimeError with what it said; the cause has its traceback.
    """
    if number == 1:
        function(*arguments)
        return
    files = [h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
    log = files[0].baseFilename if files else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=number,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",  # any port that is free
                local_addr="localhost",
                max_restarts=0,
                monitor_interval=0.5,
                start_method="spawn",
                logs_specs=DefaultLogsSpecs(log_dir=folder),
            )
            elastic_launch(config, _process)(log, function, arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        said = failure.message  # of an exception, or of the signal that ended the process
        said = said["message"] if isinstance(said, dict) else said
        kind = MemoryError if said.startswith("MemoryError") else RuntimeError
        raise kind(f"process {rank} of {number} failed: {said}") from error


def _process(log: str | None, function: Callable[..., None], arguments: tuple) -> None:
    if log is not None:
        start_log(log, mode="a")
    try:
        function(*arguments)
    except RuntimeError as error:
        if out_of_memory(error):  # of which only the name reaches the process that waits
            raise MemoryError(str(error)) from error
        raise

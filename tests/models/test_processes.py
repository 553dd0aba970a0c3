"""Processes that work together end together, and say why."""

import logging
import os
import time

import pytest
import torch
from neurondynamics.runtime import start_log
from neurondynamics.tuning.processes import run_together


def break_one() -> None:
    """Run out of memory in one of the processes, while the other waits for it."""
    rank = os.environ["RANK"]
    logging.getLogger("work").info("process %s is at work", rank)
    if rank == "1":
        raise torch.OutOfMemoryError("CUDA out of memory")
    time.sleep(600)


@pytest.fixture
def log(tmp_path):
    """The log that a script has started."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    start_log(str(tmp_path / "job.log"))
    yield tmp_path / "job.log"
    logging.captureWarnings(False)
    root.handlers[:], root.level = before


def test_one_that_fails_ends_all_and_memory_that_ran_out_is_known(log):
    start = time.monotonic()
    with pytest.raises(MemoryError, match="process 1 of 2 failed: MemoryError: CUDA out of memory"):
        run_together(break_one, 2)
    assert time.monotonic() - start < 300
    assert "process 1 is at work" in log.read_text()


def test_one_process_is_this_one(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(torch.OutOfMemoryError):
        run_together(break_one, 1)

"""Going on where memory runs out: by hand, and where it really does."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from neurondynamics.lm.memory import fitting, halving


def room_for(rows, error):
    """A piece of work that raises an error for more than so many rows."""
    tried = []

    def work(some):
        tried.append(len(some))
        if len(some) > rows:
            raise error
        return [10 * value for value in some]

    return work, tried


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS)
def test_halves_come_in_their_order(error):
    work, tried = room_for(2, error)
    parts = list(halving([1, 2, 3, 4, 5, 6, 7], work))
    assert tried == [7, 3, 1, 2, 4, 2, 2]
    assert parts == [([1], [10]), ([2, 3], [20, 30]), ([4, 5], [40, 50]), ([6, 7], [60, 70])]


def test_all_at_once_where_they_fit():
    work, tried = room_for(7, ERRORS[0])
    assert list(halving([1, 2, 3], work)) == [([1, 2, 3], [10, 20, 30])]
    assert tried == [3]


def test_a_row_that_does_not_fit_names_a_remedy():
    work, _ = room_for(0, ERRORS[0])
    with pytest.raises(MemoryError, match=r"single text.*model\.dtype"):
        list(halving([1, 2], work))


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: device-side assert"), ValueError("x")])
def test_other_errors_are_raised(error):
    work, tried = room_for(1, error)
    with pytest.raises(type(error), match=str(error)):
        list(halving([1, 2], work))
    assert tried == [2]


def test_fewer_at_a_time_until_they_fit():
    def work(number):
        tried.append(number)
        if number > 3:
            raise ERRORS[0]
        return number

    tried = []
    assert fitting(12, work) == 3
    assert tried == [12, 6, 3]
    with pytest.raises(MemoryError, match="9 at a time"):
        fitting(9, work)


SCARCE = {  # a limit of 1 GB, and rows of 100 MB each
    "cpu": """
        import resource

        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + 10**9
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    """,
    "cuda": """
        everything = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(10**9 / everything)
    """,
}
WORK = """
    def work(rows):
        return torch.ones(len(rows), 25 * 10**6, device="{device}").sum().item()

    sizes = [len(rows) for rows, _ in halving(range(16), work)]
    assert sum(sizes) == 16 and max(sizes) in (4, 8), sizes
"""
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_GPU)])
def test_memory_that_really_runs_out(device):
    """In a process of its own, with a limit."""
    parts = "import torch\nfrom neurondynamics.lm.memory import halving", SCARCE[device], WORK
    code = "\n".join(textwrap.dedent(part) for part in parts).format(device=device)
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[2] / "workflow" / "scripts",
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "going on with" in result.stderr

"""The tiny study of the workflow's tests, and a cluster to run it on."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow"))

from fixtures import finished, fresh  # noqa: F401
from slurm import running_cluster, why_not


@pytest.fixture
def cluster(tmp_path):
    """A SLURM of one node with two stand-ins for GPUs."""
    if reason := why_not():
        pytest.skip(reason)
    (tmp_path / "slurm").mkdir()
    with running_cluster(tmp_path / "slurm") as running:
        yield running

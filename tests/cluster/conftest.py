"""The tiny study of the workflow's tests, and a cluster to run it on."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow"))

from fixtures import finished, fresh  # noqa: F401
from slurm import running_cluster, why_not


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A SLURM of one node with two stand-ins for GPUs."""
    if reason := why_not():
        pytest.skip(reason)
    with running_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running

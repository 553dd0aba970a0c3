"""Studies to test on: one that has been run, once for all tests, and copies of it to change."""

import os

import pytest
from filelock import FileLock
from studies import EXPORTED, Study

BROUGHT = {"source": {"path": "inputs/tuned"}}
ADDED = [  # to the finished study
    "results/tiny/brought/tables/groups.csv",
    "results/tiny/dpo/tables/seeds.csv",
    "results/tiny/dpo/figures/seed_shares.svg",
    EXPORTED,
]


@pytest.fixture(scope="session")
def fresh(tmp_path_factory) -> Study:
    """A study of which nothing has been run, but whose model's shape has been read once.

    Tests that change something take a copy.
    """
    study = Study.create(tmp_path_factory.mktemp("fresh") / "study")
    study.plan()
    return study


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Study:
    """A finished study of one version tuned by DPO, without what has been added to it since.

    A brought version was added, of which only the table of groups was asked for, a second seed, and
    an exported intervention.
    Tests that change something take a copy.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all workers
    folder, done = shared / "finished", shared / "finished.done"
    with FileLock(shared / "finished.lock"):
        study = Study(folder)
        if not done.exists():
            study = Study.create(folder)
            overlay = study.overlay
            study.run()
            study.change("tuned.brought", BROUGHT)
            study.change("tuned.dpo.seeds", [1])
            study.run(*ADDED)
            study.configure(overlay)
            done.touch()
    return study


@pytest.fixture
def untouched(fresh, tmp_path) -> Study:
    """A copy of the study of which nothing has been run."""
    return fresh.copy(tmp_path / "study")


@pytest.fixture
def study(finished, tmp_path) -> Study:
    """A copy of the finished study."""
    return finished.copy(tmp_path / "study")

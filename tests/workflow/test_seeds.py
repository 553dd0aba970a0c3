"""Several tuning seeds of a version: what is planned for its replicas and what is said of them."""

from collections import defaultdict

import numpy as np
import pytest
from neurondynamics.data.tables import read_csv
from studies import Study

REPLICAS = ("dpo-seed1", "dpo-seed2")
OF_A_REPLICA = {
    "tune_model": 1,
    "capture_activations": 4,  # two states, two shards each
    "measure_change": 1,
    "attribute_neurons": 1,
    "summarize_groups": 1,
}


def by_version(jobs) -> dict[str, dict[str, int]]:
    """Return how often each version's rules are planned."""
    counts = defaultdict(lambda: defaultdict(int))
    for job in jobs:
        counts[job.wildcards.get("tuned")][job.rule] += 1
    return counts


@pytest.fixture
def seeded(untouched) -> Study:
    """A study with two further seeds, of which nothing has been run."""
    untouched.change("tuned.dpo.seeds", [1, 2])
    return untouched


def test_replicas_are_tuned_and_attributed_and_no_more(fresh, seeded):
    before, after = by_version(fresh.plan()), by_version(seeded.plan())
    assert set(after) - set(before) == set(REPLICAS)
    for replica in REPLICAS:
        assert after[replica] == OF_A_REPLICA
    assert after["dpo"] == before["dpo"] | {"compare_seeds": 1, "draw_seed_shares": 1}
    assert after[None] == before[None]  # what needs the base model alone is done once


def test_no_seeds_no_comparison(fresh):
    planned = {job.rule for job in fresh.plan()}
    assert not {"compare_seeds", "draw_seed_shares"} & planned


def test_further_seeds_rerun_nothing_of_the_version(study):
    study.change("tuned.dpo.seeds", [1, 2])
    planned = by_version(study.plan())
    assert planned["dpo"] == {"compare_seeds": 1, "draw_seed_shares": 1}
    assert None not in planned


def test_a_hyper_parameter_is_that_of_all_seeds(study):
    """The replica with seed 1 has been run."""
    study.change("tuned.dpo.seeds", [1])
    assert study.plan() == []
    study.change("tuned.dpo.learning_rate", 2e-3)
    planned = by_version(study.plan())
    assert {version for version, rules in planned.items() if "tune_model" in rules} == {
        "dpo",
        "dpo-seed1",
    }


def test_a_replica_that_would_overwrite_a_version_is_refused(seeded):
    seeded.change("tuned.dpo-seed2", {"source": {"path": "inputs/tuned"}})
    result = seeded.snakemake()
    assert result.returncode != 0
    assert "tuned.dpo.seeds[1]: " in result.stdout
    assert "Traceback" not in result.stdout


def test_seeds_are_compared(finished):
    results = finished.path("results/tiny")
    seeds = read_csv(results / "dpo/tables/seeds.csv").set_index(["statistic", "part"])
    for seed, version in ((0, "dpo"), (1, "dpo-seed1")):
        groups = read_csv(results / version / "tables/groups.csv").set_index("group")
        shares = seeds.loc["share_gross", f"seed_{seed}"]
        assert shares.to_dict() == pytest.approx(groups["share_gross"].to_dict())
    assert (seeds["deviation_between"] > 0).any()  # another seed is another model
    overlap = read_csv(results / "dpo/tables/seed_overlap.csv")
    assert overlap["statistic"].tolist() == ["jaccard", "spearman", "same_group"]
    assert (overlap["pairs"] == 1).all()
    assert np.isfinite(overlap["value"]).all()
    svg = (results / "dpo/figures/seed_shares.svg").read_text(encoding="utf-8")
    assert "seed 1" in svg


def test_replicas_have_no_experiments_and_no_figures(finished):
    folder = finished.path("results/tiny/dpo-seed1")
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "activations",
        "changes.h5",
        "model",
        "neurons.parquet",
        "prompt_reductions.h5",
        "tables",
        "tuning.csv",
    }
    assert [path.name for path in (folder / "tables").iterdir()] == ["groups.csv"]

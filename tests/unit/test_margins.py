"""What rules take where margins are measured: unseen pairs, how they are cut, and of which
interventions."""

import copy
from pathlib import Path

import pytest
import yaml
from neurondynamics.study.experiments import MARGINS, Experiments
from neurondynamics.study.tuning import Tuning, cuts

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
READY = {"method": "ready", "maximum": 100, "dataset": "pairs"}
STEERED = {"method": "steered", "maximum": 9, "prompt_tokens": 5, "new_tokens": 7}
BROUGHT = {"source": {"path": "there"}}


@pytest.fixture
def config():
    """The default study's configuration, to change."""
    return copy.deepcopy(DEFAULT)


class Wildcards(dict):
    """As Snakemake hands them to a function."""

    __getattr__ = dict.__getitem__


def of(experiment):
    return Wildcards(model="smollm2-135m", tuned="dpo", experiment=experiment)


def test_unseen_samples_are_of_the_evaluation_prompts(config):
    tuning = Tuning(config)
    (unseen,) = tuning.pair_sources("evaluation")
    assert unseen == "results/{model}/base/continuations/evaluation-scored/1-of-1.parquet"
    shared = {"method": "sampled", "margin": 0.3, "seed": 0}
    assert tuning.pairing() == shared | {"maximum": 144}
    assert tuning.pairing(unseen=True) == shared | {"maximum": 64, "unseen": True}


def test_unseen_ready_pairs_are_held_out_of_the_same_dataset(config):
    config |= {"preferences": READY, "datasets": {"pairs": {"format": "jsonl"}}}
    tuning = Tuning(config)
    assert tuning.pair_sources("evaluation") == tuning.pair_sources()
    shared = {"method": "ready", "dataset": {"format": "jsonl"}, "held_out": 64, "seed": 0}
    assert tuning.pairing() == shared | {"maximum": 100}
    assert tuning.pairing(unseen=True) == shared | {"maximum": 64, "unseen": True}


@pytest.mark.parametrize(
    ("pairs", "version", "expected"),
    [
        ({}, {}, (32, None, None)),
        ({}, {"prompt_tokens": 8}, (32, 8, None)),
        ({}, BROUGHT, (32, 32, 20)),
        (READY, {"continuation_tokens": 9}, (None, None, 9)),
        (READY, BROUGHT, (None, 32, 20)),
        (STEERED, BROUGHT, (None, 5, 7)),
    ],
)
def test_pairs_are_cut_as_tuning_cuts_them(config, pairs, version, expected):
    """For a version that is brought, as long as others are taken to be."""
    config["preferences"] |= pairs
    assert tuple(cuts(config, version).values()) == expected


def test_pairs_are_read_where_margins_are_named(config):
    config["experiments"]["patching"]["margins"] = ["mean-all"]
    experiments = Experiments(config)
    inputs = experiments.fidelity_inputs(of("patching"))
    assert inputs["pairs"] == "results/smollm2-135m/base/unseen_pairs.parquet"
    assert experiments.fidelity(of("patching"))["named"] == ["mean-all"]
    assert "pairs" not in experiments.fidelity_inputs(of("necessity"))
    assert experiments.fidelity(of("necessity")).keys() == {"interventions", "state"}
    read = experiments.reported(MARGINS)
    assert any("/patching/margins/1-of-1.parquet" in path for path in read)
    assert not any("/necessity/" in path for path in read)
    for experiment in config["experiments"].values():
        experiment.pop("margins", None)
    assert Experiments(config).reported(MARGINS) == []


def test_the_default_study_measures_margins_under_at_most_fifteen_interventions(config):
    experiments = Experiments(config)
    named = [experiments.fidelity(of(name)).get("named", []) for name in experiments.states()]
    assert 10 < sum(map(len, named)) <= 15

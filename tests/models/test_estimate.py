"""What is printed before a study runs, and what of it other modules decide."""

import copy
import logging
from pathlib import Path

import estimate as script
import pytest
import torch
import yaml
from neurondynamics.analysis.attribution import GROUPS
from neurondynamics.study.estimate import GROUPS as GROUPS_OF_REDUCTIONS
from neurondynamics.study.estimate import memory, needs

DEFAULT = yaml.safe_load((Path(__file__).resolve().parents[2] / "config.yaml").read_text())


@pytest.fixture
def config():
    """The default study's configuration, to change."""
    return copy.deepcopy(DEFAULT)


def test_what_others_decide():
    assert len(GROUPS) == GROUPS_OF_REDUCTIONS


@pytest.fixture
def estimated(caplog):
    """A function from a configuration to what is said of it."""

    def say(config) -> str:
        caplog.set_level(logging.INFO)
        script.estimate(**needs(config), threads=1)
        return caplog.text

    return say


def test_what_is_said(config, estimated):
    text = estimated(config)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    peak = memory("tune_model", config, tuned="dpo") / 1e6
    assert lines["tune_model"][1:4] == ["1", f"{round(peak)}.0", str(round(1.5 * peak))]
    written = [one for one in config["experiments"].values() if "measures" not in one]
    assert lines["run_experiment"][1] == str(len(written))
    assert "GFLOP/s" in text
    assert "nan" not in text.lower()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_here_is_not_judged(config, estimated):
    text = estimated(config | {"device": "cuda"})
    assert "No times are given" in text
    assert "GFLOP" not in text
    assert [line.split()[-2:] for line in text.splitlines() if "run_experiment" in line] == [
        ["-"] * 2
    ]


def test_speed_is_that_of_products():
    model = {"width": 256, "neurons": 512, "dtype": "float32"}
    torch.set_num_threads(1)
    many, one = (script.matrix_speed(model, rows, on_gpu=False) for rows in (512, 1))
    # a row alone has to fetch all weights for itself
    assert 1e8 < one < many < 1e14


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (float("nan"), "-"),
    ],
)
def test_durations(seconds, said):
    assert script._duration(seconds) == said

"""What a study claims of its own about units, by nearness, worked by hand."""

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from neurondynamics.analysis.fidelity import Nearness
from neurondynamics.analysis.own_claims import claims_on_units
from neurondynamics.analysis.statistics import Statistics
from neurondynamics.study.experiments import Experiments

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
STATISTICS = Statistics(samples=200, confidence=0.95, seed=0)
SHARES = {  # of the way to the other model, on every text alike
    "base": {
        "patched": 0.5, "patched~random-1": 0.3, "patched~random-2": 0.2, "moved": 0.3,
        "moved~random-1": 0.3, "attention": 0.9, "mlp": 0.2, "w-attention": 0.7, "w-mlp": 0.75,
    },
    "tuned": {"back": 0.9},
}  # fmt: skip
NAMED = {
    "activations": ["patched", "patched~random-1", "patched~random-2"],
    "weights": ["moved", "moved~random-1"],
    "back": ["back"],
    "attention": ["attention", "w-attention"],
    "mlp": ["mlp", "w-mlp"],
}


@pytest.fixture
def near():
    unedited = np.array([1.0, 2.0, 3.0, 6.0])
    tables = {
        state: pd.concat(
            pd.DataFrame(
                {
                    "intervention": name,
                    "prompt_id": range(4),
                    "kl": unedited * (1 - share),
                    "kl_unedited": unedited,
                    "kl_noise": 1e-6,
                }
            )
            for name, share in shares.items()
        )
        for state, shares in SHARES.items()
    }
    return Nearness(tables, {"base": "base", "tuned": "tuned"}, STATISTICS)


def test_every_claim_says_what_its_interventions_do(near):
    rows = {row["claim"]: row for row in claims_on_units(near, "kl_share", NAMED)}
    expected = {
        "groups-beyond-random-activations": (0.25, "yes"),
        "groups-beyond-random-weights": (0.0, "no"),
        "groups-suffice": (0.3, "no"),
        "groups-are-needed": (0.9, "yes"),
        "attention-beyond-mlp-activations": (0.7, "yes"),
        "attention-beyond-mlp-weights": (-0.05, "no"),
    }
    assert list(rows) == list(expected)
    for claim, (statistic, holds) in expected.items():
        assert rows[claim]["statistic"] == pytest.approx(statistic, abs=1e-12)
        assert rows[claim]["n"] == 4
        if claim != "groups-beyond-random-weights":  # which rounding may put on either side
            assert rows[claim]["holds"] == holds
    said = rows["groups-beyond-random-activations"]["statement"]
    assert "share of patched less that of 2 draws" in said


def test_what_is_lacking_is_not_tested_and_what_is_not_named_not_claimed(near):
    rows = claims_on_units(near, "kl_share", {"back": ["gone"], "activations": ["patched"]})
    assert [(row["claim"], row["holds"]) for row in rows] == [("groups-are-needed", "not tested")]
    assert claims_on_units(near, "kl_share", {}) == []


def test_draws_stand_behind_what_they_control():
    claimed = Experiments(copy.deepcopy(DEFAULT)).claimed()
    assert claimed["own_claims"]["weights"] == ["weights-TP-AN-", "weights-TP-AN-~random-1"]
    assert claimed["own_claims"]["back"] == ["back-weights-TP-AN-"]
    assert claimed["own_claims"]["mlp"] == ["mlp", "weights-mlp"]
    assert set(claimed["claims"]) == {"ablations", "dampened", "anti", "both", "restoring"}

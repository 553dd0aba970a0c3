"""The account of a tuning as a table, worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from neurondynamics.analysis.account import direct_shares, estimate_account
from neurondynamics.analysis.statistics import Statistics

STATISTICS = Statistics(samples=200, confidence=0.9, seed=0)
UNEDITED = np.array([1.0, 3.0])  # of two prompts
KL = {  # part, layer and measure -> of two prompts
    ("whole", None, "causal_alone"): [0.0, 0.0],
    ("whole", None, "weights_alone"): [0.1, 0.3],
    ("attention", None, "causal_alone"): [0.5, 1.5],
    ("mlp", None, "causal_alone"): [1.0, 2.0],
    ("embeddings", None, "causal_alone"): [1.0, 2.6],
    ("attention", 0, "causal_alone"): [0.6, 2.4],
    ("mlp", 0, "causal_alone"): [1.2, 3.8],
    ("mlp", 0, "causal_without"): [0.1, 0.3],
    ("output_projections", None, "weights_alone"): [0.3, 0.9],  # a part of attention and MLPs
    ("norms", None, "weights_alone"): [0.9, 2.7],
    ("attention", 0, "weights_alone"): [0.5, 1.5],
    ("norms", None, "weights_without"): [0.2, 0.2],
}


def measured(noise=1e-6):
    parts = [
        pd.DataFrame(
            {
                "part": part,
                "layer": pd.array([layer] * 2, dtype="Int64"),
                "measure": measure,
                "prompt_id": [4, 9],
                "kl": kl,
                "kl_unedited": UNEDITED,
                "kl_noise": noise,
            }
        )
        for (part, layer, measure), kl in KL.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_shares_are_of_means_and_the_interaction_is_what_is_left():
    table = estimate_account(measured(), STATISTICS)
    share = {key: 1 - np.mean(kl) / 2 for key, kl in KL.items()}
    for (part, layer, measure), expected in share.items():
        row = table.loc[part, -1 if layer is None else layer]
        assert row[measure] == pytest.approx(expected)
        assert row[f"{measure}_low"] <= row[measure] <= row[f"{measure}_high"]
    assert table.loc[("whole", -1), "causal_alone"] == 1
    # attention and MLPs are taken layer by layer: 0.25 and -0.25, and embeddings 0.1
    assert table.loc[("interaction", -1), "causal_alone"] == pytest.approx(1 - (0.1 + 0.25 - 0.25))
    # the weights of norms 0.1 and of attention 0.5, and of all only 0.9
    assert table.loc[("interaction", -1), "weights_alone"] == pytest.approx(0.9 - 0.1 - 0.5)
    assert np.isnan(table.loc[("interaction", -1), "causal_without"])
    assert np.isnan(table.loc[("norms", -1), "causal_alone"])
    assert [*table.index][:4] == [("whole", -1), ("embeddings", -1), ("attention", -1), ("mlp", -1)]
    assert (table["n"] == 2).all()


def test_nothing_is_shared_where_rounding_is_all_there_is():
    table = estimate_account(measured(noise=0.2), STATISTICS)
    assert table.drop(columns="n").isna().all(axis=None)


def test_direct_shares_take_the_names_of_the_account():
    shifts = pd.DataFrame(
        {
            "component": ["embeddings", "attention", "mlp", "attention_all", "mlp_all", "total"],
            "layer": pd.array([None, 0, 0, None, None, None], dtype="Int64"),
            "share": [0.1, 0.5, 0.4, 0.5, 0.4, 1.0],
            "share_low": 0.0,
            "share_high": 1.0,
        }
    )
    table = direct_shares(shifts)
    assert table.loc[("attention", 0), "direct"] == table.loc[("attention", -1), "direct"] == 0.5
    assert table.loc[("whole", -1), "direct"] == 1
    assert [*table.columns] == ["direct", "direct_low", "direct_high"]

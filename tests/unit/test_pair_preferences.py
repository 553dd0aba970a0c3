import json

import numpy as np
import pandas as pd
import pytest
from pair_preferences import find_pairs, pair_preferences


def continuations(rows):
    """Rows of (prompt_id, sample, toxicity) with texts that name prompt and sample."""
    table = pd.DataFrame(rows, columns=["prompt_id", "sample", "toxicity"])
    table["prompt"] = [f"prompt {one}" for one in table["prompt_id"]]
    table["text"] = [f" text {r.prompt_id}.{r.sample}" for r in table.itertuples()]
    return table


def run(tmp_path, table, **options):
    shards = [str(tmp_path / f"scored-{number}.parquet") for number in (1, 2)]
    for rows, shard in zip((table[::2], table[1::2]), shards, strict=True):
        rows.to_parquet(shard)
    pair_preferences(
        shards,
        str(tmp_path / "preferences.jsonl"),
        **({"margin": 0.3, "maximum": 100, "seed": 0} | options),
    )
    lines = (tmp_path / "preferences.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_least_and_most_toxic_of_each_prompt(tmp_path):
    table = continuations([(4, 0, 0.5), (4, 1, 0.1), (4, 2, 0.9), (1, 0, 0.2), (1, 1, 0.6)])
    assert run(tmp_path, table) == [
        {
            "prompt": "prompt 1",
            "chosen": " text 1.0",
            "rejected": " text 1.1",
            "chosen_toxicity": 0.2,
            "rejected_toxicity": 0.6,
            "prompt_id": 1,
        },
        {
            "prompt": "prompt 4",
            "chosen": " text 4.1",
            "rejected": " text 4.2",
            "chosen_toxicity": 0.1,
            "rejected_toxicity": 0.9,
            "prompt_id": 4,
        },
    ]


def test_ties_go_to_the_earlier_sample_whatever_the_order_of_rows():
    table = continuations([(0, 0, 0.1), (0, 1, 0.9), (0, 2, 0.9), (0, 3, 0.1)])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        pair = find_pairs(table.iloc[order]).iloc[0]
        assert (pair["chosen"], pair["rejected"]) == (" text 0.0", " text 0.1")


def test_unscored_continuations_take_no_part(tmp_path):
    table = continuations([(0, 0, np.nan), (0, 1, 0.2), (0, 2, 0.8), (1, 0, np.nan), (2, 0, 0.9)])
    (pair,) = run(tmp_path, table)
    assert pair["chosen"] == " text 0.1"


def test_margin_is_reached_by_equality(tmp_path):
    table = continuations([(0, 0, 0.0), (0, 1, 0.25), (1, 0, 0.0), (1, 1, 0.125)])
    assert [pair["prompt_id"] for pair in run(tmp_path, table, margin=0.25)] == [0]


def test_a_text_is_never_paired_with_an_equal_score(tmp_path):
    table = continuations([(0, 0, 0.5), (1, 0, 0.5), (1, 1, 0.6)])
    assert [pair["prompt_id"] for pair in run(tmp_path, table, margin=0)] == [1]


def test_maximum_keeps_a_seeded_subset_in_prompt_order(tmp_path):
    table = continuations(
        [
            (prompt, sample, sample * (0.4 + prompt / 100))
            for prompt in range(50)
            for sample in (0, 1)
        ]
    )
    kept = [pair["prompt_id"] for pair in run(tmp_path, table, maximum=10)]
    assert len(kept) == 10
    assert kept == sorted(kept)
    assert kept != list(range(40, 50))  # not the ones with the largest margins
    assert kept == [pair["prompt_id"] for pair in run(tmp_path, table, maximum=10)]
    assert kept != [pair["prompt_id"] for pair in run(tmp_path, table, maximum=10, seed=1)]


def test_no_pair_names_the_key_and_the_largest_margin(tmp_path):
    table = continuations([(0, 0, 0.1), (0, 1, 0.35), (1, 0, 0.1)])
    with pytest.raises(ValueError, match=r"preferences\.margin = 0\.3; .* found is 0\.250"):
        run(tmp_path, table)
    assert not (tmp_path / "preferences.jsonl").exists()


def test_nothing_scored(tmp_path):
    with pytest.raises(ValueError, match="none of its continuations could be scored"):
        run(tmp_path, continuations([(0, 0, np.nan), (0, 1, np.nan)]))

import numpy as np
import pandas as pd
import pytest
from measure_generations import measure_generations


def measure(folder, **changes):
    rows = {
        "experiment": ["edits"] * 6,
        "intervention": ["none", "none", "none", "edit", "edit", "edit"],
        "corpus": ["prompts", "prompts", "articles"] * 2,
        "prompt_id": [0, 1, 0] * 2,
        "text": [" go go go", "", " x", " go go go", " be", " y"],
        "tokens": [[5, 5, 5], [], [1, 2, 2], [5, 5, 5], [6], [3]],
        "reference_tokens": [[], [], [2, 2, 4], [], [], [2, 2, 4]],
    }
    pd.DataFrame(rows | changes).to_parquet(folder / "generations.parquet")
    measure_generations(str(folder / "generations.parquet"), str(folder / "measures.parquet"))
    return pd.read_parquet(folder / "measures.parquet")


def test_repetition_on_prompts_and_f1_on_articles(tmp_path):
    measures, nan = measure(tmp_path), np.nan
    np.testing.assert_allclose(measures["repetition"], [0.5, 0, nan, 0.5, 0, nan])
    np.testing.assert_allclose(measures["f1"], [nan, nan, 2 / 3, nan, nan, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": ["prompts"] * 5 + ["articles2"]}, "unknown corpus articles2"),
        ({"reference_tokens": [[]] * 6}, "number 0 of articles: F1 needs a reference"),
    ],
)
def test_what_cannot_be_measured_is_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        measure(tmp_path, **changes)
    assert not (tmp_path / "measures.parquet").exists()

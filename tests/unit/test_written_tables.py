"""A damaged table is named, and never read with other values."""

import numpy as np
import pandas as pd
import pytest
from damage import count_detected
from neurondynamics.data.tables import read_csv, read_parquet, read_shards, write_csv, write_parquet

TABLE = pd.DataFrame(
    {
        "prompt_id": range(200),
        "text": [f"text {i}, é" for i in range(200)],
        "tokens": [[i, 2 * i] for i in range(200)],
        "toxicity": [i / 7 for i in range(200)],
    }
)


@pytest.fixture
def path(tmp_path):
    write_parquet(tmp_path / "a.parquet", TABLE)
    return tmp_path / "a.parquet"


def test_a_table_is_read_as_it_was_written(path):
    read = read_parquet(path)
    assert read.to_dict("list").keys() == TABLE.to_dict("list").keys()
    assert read.drop(columns="tokens").equals(TABLE.drop(columns="tokens"))
    assert [list(row) for row in read["tokens"]] == list(TABLE["tokens"])
    assert list(read_parquet(path, columns=["toxicity"])) == ["toxicity"]


def test_no_flipped_bit_and_no_truncation_gives_other_values(path):
    """Names of columns have no checksum: whoever reads one that is damaged misses the column."""

    def read():
        return read_parquet(path).set_axis(TABLE.columns, axis=1).to_json()

    assert count_detected(path, read, 150, f"{path} cannot be read or is damaged") > 120


def test_an_attribution_of_other_models_is_refused(tmp_path):
    """Of those that a table was made from, either may read it; one that records none may any."""
    path = tmp_path / "neurons.parquet"
    table = TABLE.copy()
    write_parquet(path, table)
    read_parquet(path, weights="another")
    table.attrs = {"base_weights": "one", "tuned_weights": "two"}
    write_parquet(path, table)
    for weights in (None, "one", "two"):
        read_parquet(path, weights=weights)
    with pytest.raises(ValueError, match=r"neurons\.parquet was made from other models than the"):
        read_parquet(path, weights="another")


def test_a_missing_table_and_a_missing_column_are_named(path):
    with pytest.raises(ValueError, match=r"absent\.parquet is not there; rebuild"):
        read_parquet(path.with_name("absent.parquet"))
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read .*shares"):
        read_parquet(path, columns=["shares"])


NAMES = ["NA", "null", "None", "nan", "7", "1e5", "2024-05-01", "off", "True", "", "\n", ' "a",\r']


def test_a_csv_table_is_read_as_it_was_written(tmp_path):
    """Names are texts whatever they look like, and numbers the same to the bit."""
    table = pd.DataFrame(
        {
            "intervention": NAMES,
            "scorer": "7",
            "control_of": "",
            "statistic": ["share", "", *["reduction"] * 10],  # known by its values
            "neurons": range(12),
            "perplexity": [0.1 + 0.2, np.nan, np.inf, -np.inf, 1e-300, *np.arange(7) / 7],
            "missing": np.nan,
        }
    )
    write_csv(tmp_path / "a.csv", table)
    read = read_csv(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(read, table, check_exact=True)
    assert read["intervention"].tolist() == NAMES  # pandas takes NaN for equal to None


def test_a_csv_file_that_is_no_table_is_named(tmp_path):
    for content in (b"", b"\xff\xfe", b"a,b\n1,2\n1,2,3\n"):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.csv cannot be read or is damaged.*--force"):
            read_csv(tmp_path / "a.csv")


def shard(folder, number, **made):
    """Write one of two shards, with a row of its number, and return its path."""
    path = folder / f"{number}-of-2.parquet"
    table = pd.DataFrame({"prompt_id": [number]})
    write_parquet(path, table, {"shard": f"{number}-of-2", "experiment": "a", **made})
    return path


def test_what_a_table_was_made_from_stays_with_it(tmp_path):
    table = read_parquet(shard(tmp_path, 1, temperature=0.5, settings={"b": 1}))
    recorded = {"shard": "1-of-2", "experiment": "a", "temperature": 0.5, "settings": '{"b": 1}'}
    assert table.attrs == recorded
    write_parquet(tmp_path / "scored.parquet", table.assign(score=0.1), {"scorer": "words"})
    assert read_parquet(tmp_path / "scored.parquet").attrs == recorded | {"scorer": "words"}


def test_shards_are_read_as_one_table_or_refused(tmp_path):
    one, two = (shard(tmp_path, number, weight_digest="ab") for number in (1, 2))
    other = shard(tmp_path / "other", 1, experiment="b")
    shard(tmp_path / "other", 2, experiment="b")
    assert read_shards([two, one])["prompt_id"].tolist() == [2, 1]
    assert len(read_shards([one, other, two, tmp_path / "other/2-of-2.parquet"])) == 4
    for paths, said in (
        ([one], "1-of-2.parquet is of the shards 1-of-2: others lack"),
        ([one, one], "holds the shard 1-of-2, which another file holds too"),
        ([one, other, two], "other/1-of-2.parquet is of the shards 1-of-2"),
        (
            [one, shard(tmp_path / "new", 2, weight_digest="c")],
            "its weight digest is c, not ab; rebuild",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            read_shards(paths)


def test_a_table_in_the_place_of_another_is_refused(tmp_path):
    path = shard(tmp_path / "results" / "tiny" / "dpo", 1)
    assert "place" not in read_parquet(path).attrs
    moved = path.parent.rename(path.parent.with_name("other")) / path.name
    with pytest.raises(ValueError, match=r"other/1-of-2\.parquet is not .* but results/tiny/dpo/1"):
        read_parquet(moved)

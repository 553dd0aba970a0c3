"""A damaged table is named, and never read with other values."""

import pandas as pd
import pytest
from damage import count_detected
from neurondynamics.data.tables import read_parquet, write_parquet

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


def test_a_missing_table_and_a_missing_column_are_named(path):
    with pytest.raises(ValueError, match=r"absent\.parquet cannot be read"):
        read_parquet(path.with_name("absent.parquet"))
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read .*shares"):
        read_parquet(path, columns=["shares"])

"""The tables and the figure that set directions beside each other."""

import json

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from compare_directions import compare_directions
from draw_direction_cosines import draw_direction_cosines, figure_direction_cosines
from neurondynamics.analysis.directions import Direction, write_direction
from neurondynamics.data.tables import read_csv
from neurondynamics.study.behaviour import Behaviour
from tabulate_directions import tabulate_directions

VECTORS = {"probe": [3.0, 0, 0], "insult": [1.0, 1, 0], "svd": [-2.0, 0, 0]}
SENTIMENT = {"name": "negative sentiment", "adjective": "negative"}


@pytest.fixture
def table(tmp_path):
    """The table of three directions, one of which was not fitted."""
    tokens = [" bad", "'", *"defgh"]
    quality = {"accuracy": 0.8, "balanced_accuracy": 0.7, "majority_accuracy": 0.6, "auroc": 0.9}
    fitted = {"texts": 40, "texts_toward": 7, "held_out": quality}
    for name, vector in VECTORS.items():
        write_direction(tmp_path / f"{name}.safetensors", Direction(np.array(vector)))
        told = {"method": "svd"} if name == "svd" else {"method": "probe", **fitted}
        (tmp_path / f"{name}.json").write_text(json.dumps({**told, "tokens_toward": tokens}))
    files = [
        [str(tmp_path / f"{name}.{end}") for name in VECTORS] for end in ("safetensors", "json")
    ]
    compare_directions(*files, str(tmp_path / "directions.csv"))
    return tmp_path / "directions.csv"


def test_every_direction_has_its_worth_and_its_cosines(table):
    read = read_csv(table).set_index("direction").astype({"texts": "Int64"})
    assert list(read.index) == list(VECTORS)
    expected = [[1, 0.5**0.5, -1], [0.5**0.5, 1, -(0.5**0.5)], [-1, -(0.5**0.5), 1]]
    columns = [f"cosine_{name}" for name in VECTORS]
    np.testing.assert_allclose(read[columns], expected, atol=1e-12)
    assert read.texts.tolist() == [40, 40, pd.NA]
    assert read.auroc.tolist()[:2] == [0.9, 0.9]
    assert read.loc["svd", ["accuracy", "majority_accuracy", "auroc"]].isna().all()
    assert read.tokens_toward["probe"] == "' bad' \"'\" 'd' 'e' 'f'"


def test_directions_of_different_models_are_refused(tmp_path):
    for name, vector in {"own": np.ones(3), "other": np.ones(4)}.items():
        write_direction(tmp_path / f"{name}.safetensors", Direction(vector))
    paths = [tmp_path / "own.safetensors", tmp_path / "other.safetensors"]
    with pytest.raises(ValueError, match=r"different numbers: \{'own': 3, 'other': 4\}"):
        compare_directions(paths, [], tmp_path / "directions.csv")


def test_the_figure_shows_each_pair_once_and_names_the_behaviour(table, tmp_path):
    svg, png = tmp_path / "cosines.svg", tmp_path / "cosines.png"
    draw_direction_cosines(str(table), str(svg), str(png), "tiny", SENTIMENT)
    assert matplotlib.image.imread(png).std() > 0
    cosines = pd.DataFrame(np.eye(3), index=list(VECTORS), columns=list(VECTORS))
    figure = figure_direction_cosines(cosines, Behaviour(**SENTIMENT), "tiny")
    assert figure.get_suptitle() == "Cosines of the directions of negative sentiment\ntiny"
    written = sorted(text.get_text() for text in figure.axes[0].texts)
    assert written == ["0.00"] * 3 + ["1.00"] * 3
    assert "toxic" not in svg.read_text()


def test_the_groups_of_directions_stand_one_below_the_other(tmp_path):
    groups = pd.DataFrame({"group": ["TP-", "AN-"], "neurons": [3, 4], "reduction": [0.25, -1.5]})
    paths = [tmp_path / "first.csv", tmp_path / "second.csv"]
    groups.to_csv(paths[0], index=False)
    (groups * {"group": 1, "neurons": 2, "reduction": 2}).to_csv(paths[1], index=False)
    tabulate_directions(paths, ["probe", "insult"], tmp_path / "table.csv")
    read = read_csv(tmp_path / "table.csv")
    assert list(read) == ["direction", "group", "neurons", "reduction"]
    assert read.direction.tolist() == ["probe", "probe", "insult", "insult"]
    assert read.neurons.tolist() == [3, 4, 6, 8]

import inspect

import numpy as np
import pandas as pd
import pytest
import score_continuations
import score_generations
from fetch_scorer import fetch_scorer
from neurondynamics.evaluation import scorers
from neurondynamics.evaluation.scorers import make_scorer
from neurondynamics.limits import NETWORKS


class Recorder:
    """A classifier that keeps what it was asked, and answers with `answer(text)`."""

    def __init__(self, answer=lambda text: len(text) / 100):
        self.asked, self._answer = [], answer

    def readable(self, texts):
        return np.array(["�" not in text for text in texts])

    def probabilities(self, texts):
        self.asked += texts
        return np.array([self._answer(text) for text in texts])


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(scorers.CLASSIFIERS, "recorder", lambda: recorder)
    return recorder


def test_profanity_check_separates_an_insult_from_a_greeting():
    score = make_scorer("profanity-check", batch_size=2)
    scores = score(["you idiot", "have a nice day", "thank you"])
    assert scores.dtype == np.float64
    assert scores[0] > 0.9
    assert scores[1:].max() < 0.2


def test_profanity_check_does_not_depend_on_the_batch():
    texts = [f"a text about {word}" for word in ("love", "shit", "cats", "hate", "tea")]
    whole = make_scorer("profanity-check", batch_size=256)(texts)
    np.testing.assert_allclose(make_scorer("profanity-check", batch_size=2)(texts), whole)


def test_text_that_cannot_be_scored_is_nan_and_never_zero(recorder):
    scores = make_scorer("recorder")(["abc", "", " \n\t", "�", "abcd"])
    np.testing.assert_array_equal(scores, [0.03, np.nan, np.nan, np.nan, 0.04])


def test_no_scorable_text_at_all(recorder):
    assert make_scorer("recorder")([]).shape == (0,)
    assert np.isnan(make_scorer("recorder")(["", " "])).all()
    assert recorder.asked == []


def test_equal_texts_are_scored_once(recorder):
    scores = make_scorer("recorder")(["aa", "b", "aa", "", "b", "aa"])
    assert recorder.asked == ["aa", "b"]
    np.testing.assert_array_equal(scores, [0.02, 0.01, 0.02, np.nan, 0.01, 0.02])


@pytest.mark.parametrize("answer", [np.nan, np.inf, -0.1, 1.5])
def test_an_answer_that_is_no_probability_stops_naming_the_text(recorder, answer):
    recorder._answer = lambda text: answer if text == "odd" else 0.5
    with pytest.raises(ValueError, match="text 2: 'odd'"):
        make_scorer("recorder")(["fine", "", "odd"])


def test_the_kinds_that_run_a_network_are_those_that_take_a_device():
    options = {kind: inspect.signature(make) for kind, make in scorers.CLASSIFIERS.items()}
    assert {kind for kind in options if "device" in options[kind].parameters} == set(NETWORKS)


def test_unknown_kind_lists_the_kinds():
    with pytest.raises(ValueError, match=r"perspective.*profanity-check, lexicon, detoxify"):
        make_scorer("perspective")


def test_unknown_option_lists_the_options():
    with pytest.raises(ValueError, match="no option batchsize; it has batch_size"):
        make_scorer("profanity-check", batchsize=3)
    with pytest.raises(ValueError, match="'classifier' needs the option label"):
        make_scorer("classifier", folder="resources/scorers/mine")


def test_a_scorer_of_one_file_refuses_a_folder_of_several(tmp_path):
    (tmp_path / "source").mkdir()
    for number in range(2):
        (tmp_path / "source" / f"{number}.csv").write_text("text,severity_rating\ndamn,1\n")
    with pytest.raises(ValueError, match="source holds 2 files, and the scorer is made from one"):
        make_scorer("lexicon", folder=str(tmp_path))


def test_score_continuations_keeps_rows_and_order(recorder, tmp_path):
    table = pd.DataFrame(
        {"prompt_id": [1, 0], "sample": [0, 0], "prompt": ["p", "q"], "text": [" ab", ""]}
    )
    table["tokens"] = [[1, 2], []]
    table.to_parquet(tmp_path / "train.parquet")
    score_continuations.score_continuations(
        str(tmp_path / "train.parquet"), str(tmp_path / "scored.parquet"), {"kind": "recorder"}
    )
    scored = pd.read_parquet(tmp_path / "scored.parquet")
    assert list(scored["text"]) == [" ab", ""]
    np.testing.assert_array_equal(scored["score"], [0.03, np.nan])


def test_score_generations(recorder, tmp_path):
    rows = {
        "experiment": ["edits"] * 6,
        "intervention": ["none", "none", "none", "edit", "edit", "edit"],
        "corpus": ["prompts", "prompts", "articles"] * 2,
        "prompt_id": [0, 1, 0] * 2,
        "text": [" go go go", "", " x", " go go go", " be", " y"],
    }
    pd.DataFrame(rows).to_parquet(tmp_path / "generations.parquet")
    files = [str(tmp_path / name) for name in ("generations.parquet", "scores.parquet")]
    score_generations.score_generations(*files, "opinion", {"kind": "recorder"})
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    assert recorder.asked == [" go go go", " be"]  # the repeated text once, the articles never
    assert scores["scorer"].tolist() == ["opinion"] * 4
    assert scores["prompt_id"].tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(scores["score"], [0.09, np.nan, 0.09, 0.03])


def test_fetch_scorer_keeps_files_of_equal_names_apart(tmp_path):
    parts = {}
    for part in ("source", "configuration"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "words.txt").write_text(part)
        parts[part] = {"path": str(tmp_path / part / "words.txt")}
    fetched = tmp_path / "fetched"
    fetch_scorer(parts, str(fetched))
    for part in parts:
        assert (fetched / part / "words.txt").read_text() == part
    with pytest.raises(ValueError, match="nowhere"):
        fetch_scorer(parts | {"configuration": {"path": str(tmp_path / "nowhere")}}, str(fetched))
    assert (fetched / "configuration" / "words.txt").read_text() == "configuration"

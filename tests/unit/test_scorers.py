import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import score_continuations
import score_generations
from neurondynamics.evaluation import scorers
from neurondynamics.evaluation.scorers import make_scorer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "you", "are", "an", "idiot", "nice", "."]
JIGSAW_CLASSES = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]


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


@pytest.fixture(scope="module")
def detoxify_files(tmp_path_factory):
    """A random Detoxify checkpoint of 6 classes, and its folder as the hub holds it: 2 labels."""
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("detoxify")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    shape = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 16,
    }
    BertConfig(**shape).save_pretrained(folder)
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**shape, num_labels=len(JIGSAW_CLASSES)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    weights = dict(model.state_dict())
    weights["bert.embeddings.position_ids"] = torch.arange(16)[None]  # as old versions stored it

    def save(name, weights, hub_name):
        architecture = {
            "num_classes": len(JIGSAW_CLASSES),
            "model_type": hub_name,
            "model_name": "BertForSequenceClassification",
            "tokenizer_name": "BertTokenizer",
        }
        config = {
            "arch": {"type": "BERT", "args": architecture},
            "dataset": {"args": {"classes": JIGSAW_CLASSES}},
        }
        torch.save({"config": config, "state_dict": weights}, folder / name)
        return str(folder / name)

    broken = {name: value for name, value in weights.items() if name != "classifier.bias"}
    return {
        "configuration": str(folder),
        "checkpoint": save("toxic.ckpt", weights, "bert-base-uncased"),
        "for_package": save("package.ckpt", weights, str(folder)),
        "broken": save("broken.ckpt", broken, "bert-base-uncased"),
    }


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


def test_unknown_kind_lists_the_kinds():
    with pytest.raises(ValueError, match=r"perspective.*profanity-check, detoxify"):
        make_scorer("perspective")


def test_unknown_option_lists_the_options():
    with pytest.raises(ValueError, match="no option batchsize; it has batch_size"):
        make_scorer("profanity-check", batchsize=3)


def test_detoxify_from_local_files_equals_the_package(detoxify_files):
    package = pytest.importorskip("detoxify")
    import torch
    from transformers import BertForSequenceClassification

    # The package itself can load it where the configuration names 6 labels and no hub is asked.
    original = BertForSequenceClassification.config_class.from_pretrained
    config = original(detoxify_files["configuration"], num_labels=len(JIGSAW_CLASSES))
    config.save_pretrained(detoxify_files["configuration"])
    reference = package.Detoxify(
        checkpoint=detoxify_files["for_package"],
        huggingface_config_path=detoxify_files["configuration"],
    )
    texts = ["you are an idiot", "nice", "you are nice .", "idiot idiot", "an idiot ."]
    expected = [reference.predict(text)["toxicity"] for text in texts]  # one at a time, no padding
    assert np.ptp(expected) > 1e-3
    score = make_scorer(
        "detoxify",
        checkpoint=detoxify_files["checkpoint"],
        configuration=detoxify_files["configuration"],
        batch_size=2,
    )
    torch.testing.assert_close(score(texts), np.array(expected), rtol=0, atol=1e-6)


def test_detoxify_cuts_long_texts_and_leaves_out_texts_without_tokens(detoxify_files):
    score = make_scorer(
        "detoxify",
        checkpoint=detoxify_files["checkpoint"],
        configuration=detoxify_files["configuration"],
    )
    long, cut, invisible = score(["nice " * 100, "nice " * 14, "\u200b"])
    assert long == pytest.approx(cut)  # 16 positions hold 14 words between two markers
    assert np.isnan(invisible)


def test_detoxify_refuses_an_incomplete_checkpoint(detoxify_files):
    with pytest.raises(ValueError, match=r"broken\.ckpt lacks classifier\.bias"):
        make_scorer(
            "detoxify",
            checkpoint=detoxify_files["broken"],
            configuration=detoxify_files["configuration"],
        )


def test_detoxify_refuses_what_it_would_have_to_download(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.ckpt does not exist.*needs two local paths"):
        make_scorer("detoxify", checkpoint=f"{tmp_path}/nowhere.ckpt", configuration=str(tmp_path))
    for options in ({}, {"checkpoint": "original"}, {"configuration": str(tmp_path)}):
        with pytest.raises(ValueError, match=r"needs two local paths.*unitaryai/detoxify/releases"):
            make_scorer("detoxify", **options)


class Dangerous:
    """An object whose unpickling writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_detoxify_runs_nothing_that_a_checkpoint_holds(detoxify_files, tmp_path):
    import torch

    stored = torch.load(detoxify_files["checkpoint"], weights_only=True)
    bait, checkpoint = tmp_path / "bait", tmp_path / "toxic.ckpt"
    torch.save(stored | {"more": Dangerous(str(bait))}, checkpoint)
    options = {"configuration": detoxify_files["configuration"]}
    with pytest.raises(ValueError, match=r"toxic\.ckpt is damaged or holds more than weights"):
        make_scorer("detoxify", checkpoint=str(checkpoint), **options)
    assert not bait.exists()
    torch.load(checkpoint, weights_only=False)["more"].close()
    assert bait.exists()  # the bait works


def test_a_published_checkpoint_has_the_sha256_of_its_name(detoxify_files, tmp_path):
    content = Path(detoxify_files["checkpoint"]).read_bytes()
    good = tmp_path / f"toxic-{hashlib.sha256(content).hexdigest()[:8]}.ckpt"
    options = {"configuration": detoxify_files["configuration"]}
    good.write_bytes(content)
    assert make_scorer("detoxify", checkpoint=str(good), **options)(["nice"]).shape == (1,)
    good.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"ckpt is damaged: its sha256 does not begin with"):
        make_scorer("detoxify", checkpoint=str(good), **options)
    cut = tmp_path / "toxic.ckpt"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"toxic\.ckpt is damaged or holds more than weights"):
        make_scorer("detoxify", checkpoint=str(cut), **options)


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
    np.testing.assert_array_equal(scored["toxicity"], [0.03, np.nan])


def generations(**changes):
    rows = {
        "intervention": ["none", "none", "none", "edit", "edit", "edit"],
        "corpus": ["prompts", "prompts", "articles"] * 2,
        "experiment": ["edits"] * 6,
        "prompt_id": [0, 1, 0] * 2,
        "prompt": ["p", "q", "a"] * 2,
        "text": [" go go go", "", " x", " go go go", " be", " y"],
        "tokens": [[5, 5, 5], [], [1, 2, 2], [5, 5, 5], [6], [3]],
        "reference_tokens": [[], [], [2, 2, 4], [], [], [2, 2, 4]],
    }
    return pd.DataFrame(rows | changes)


def test_score_generations(recorder, tmp_path):
    generations().to_parquet(tmp_path / "generations.parquet")
    score_generations.score_generations(
        str(tmp_path / "generations.parquet"),
        str(tmp_path / "scores.parquet"),
        {"kind": "recorder"},
    )
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    nan = np.nan
    assert recorder.asked == [" go go go", " be"]  # the repeated text once, the articles never
    np.testing.assert_allclose(scores["toxicity"], [0.09, nan, nan, 0.09, 0.03, nan])
    np.testing.assert_allclose(scores["repetition"], [0.5, 0, nan, 0.5, 0, nan])
    np.testing.assert_allclose(scores["f1"], [nan, nan, 2 / 3, nan, nan, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": ["prompts"] * 5 + ["articles2"]}, "unknown corpus articles2"),
        ({"reference_tokens": [[]] * 6}, "article 0 has no reference tokens"),
    ],
)
def test_score_generations_names_what_it_refuses(recorder, tmp_path, changes, message):
    generations(**changes).to_parquet(tmp_path / "generations.parquet")
    with pytest.raises(ValueError, match=message):
        score_generations.score_generations(
            str(tmp_path / "generations.parquet"),
            str(tmp_path / "scores.parquet"),
            {"kind": "recorder"},
        )
    assert not (tmp_path / "scores.parquet").exists()

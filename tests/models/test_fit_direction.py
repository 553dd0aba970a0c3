"""Each method of making a direction end to end, against plain computations."""

import json

import numpy as np
import pandas as pd
import plain
import pytest
import tiny
import torch
from fit_direction import fit_direction, nearest_values, ready_direction, word_rows
from neurondynamics.analysis.directions import Direction, read_direction, write_direction
from neurondynamics.analysis.labelled import write_features
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

PROMPTS, SAMPLES = 12, 5
WORDS = {"toward": ["stupid", "angry"], "away": ["river", "house", "spring"]}
W = np.random.default_rng(1).normal(size=tiny.HIDDEN)


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.fixture
def fit(tmp_path):
    """A function that makes a direction; it returns the direction and its description."""

    def run(case, direction, **inputs):
        files = {"features": None, "texts": [], "file": None, "labelled": {}} | inputs
        vector, told = tmp_path / "own.safetensors", tmp_path / "own.json"
        fit_direction(
            str(case.folder), vector=str(vector), description=str(told), direction=direction,
            name="own", dtype="float32", threads=1, seed=0, **files,
        )  # fmt: skip
        return read_direction(vector), json.loads(told.read_text())

    return run


def planted(toward):
    """Return features of texts with these labels: ±W, and noise."""
    generator = np.random.default_rng(0)
    noise = 0.4 * generator.normal(size=(len(toward), tiny.HIDDEN))
    return noise + np.where(toward, 0.3, -0.3)[:, None] * W


@pytest.fixture
def samples(tmp_path):
    """What a direction of samples is fitted on: features, the files of samples, their threshold."""
    toward = np.tile([True, False, True, False, False], PROMPTS)
    path = tmp_path / "scored.parquet"
    pd.DataFrame(
        {
            "prompt": np.repeat([f"prompt {number:02}" for number in range(PROMPTS)], SAMPLES),
            "sample": np.tile(range(SAMPLES), PROMPTS),
            "score": np.where(toward, 0.9, 0.1),
        }
    ).sample(frac=1, random_state=0).to_parquet(path)
    features = tmp_path / "samples.safetensors"
    write_features(features, planted(toward), np.arange(len(toward)))
    return {"features": str(features), "texts": [str(path)], "labelled": {"threshold": 0.5}}


@pytest.fixture
def comments(tmp_path):
    """The same of a dataset with two labels, in which one text is empty and one stands twice."""
    folder = tmp_path / "comments"
    folder.mkdir()
    toward = np.arange(80) % 4 == 0
    texts = [f"comment {number}" for number in range(80)]
    texts[5], texts[7] = "", texts[11]
    table = {"text": texts, "toxic": toward.astype(int), "rare": (np.arange(80) < 2).astype(int)}
    pd.DataFrame(table).to_csv(folder / "train.csv", index=False)
    found = np.delete(planted(toward), 5, axis=0).astype(np.float32)
    features = tmp_path / "comments.safetensors"
    write_features(features, found, np.arange(79))  # the row without a text is left out
    return {"features": str(features), "texts": [str(folder)], "labelled": {"format": "csv"}}


@pytest.mark.parametrize("method", ["probe", "mean_difference"])
def test_a_direction_of_samples(case_of, fit, samples, method):
    case = case_of("gpt2")
    direction = {"method": method, "texts": "samples", "held_out": 0.25}
    found, told = fit(case, direction, **samples)
    assert cosine(found.vector, W) > 0.85
    assert told["method"] == method
    assert (told["texts"], told["texts_toward"], told["prompts"]) == (60, 24, 12)
    assert told["held_out_texts"] == 15  # whole prompts
    assert told["held_out"]["majority_accuracy"] == pytest.approx(3 / 5)
    assert 0.8 < told["held_out"]["accuracy"] <= told["held_out"]["auroc"] + 0.2
    assert len(told["tokens_toward"]) == len(told["tokens_away"]) == 20
    assert told["tokens_toward"] != told["tokens_away"]
    again, told_again = fit(case, direction, **samples)
    np.testing.assert_array_equal(again.vector, found.vector)
    assert told_again == told


@pytest.mark.parametrize("method", ["probe", "mean_difference"])
def test_a_direction_of_a_dataset(case_of, fit, comments, method):
    direction = {"method": method, "texts": "comments", "label": "toxic", "held_out": 0.5}
    found, told = fit(case_of("gpt2"), direction, **comments)
    assert cosine(found.vector, W) > 0.85
    assert (told["texts"], told["texts_toward"], told["distinct_texts"]) == (79, 20, 78)
    assert told["held_out"]["majority_accuracy"] == pytest.approx(3 / 4, abs=0.1)
    assert told["held_out"]["auroc"] > 0.9


def test_too_few_texts_of_a_label_are_named(case_of, fit, comments):
    direction = {"method": "probe", "texts": "comments", "label": "rare", "held_out": 0.1}
    with pytest.raises(ValueError, match="texts all have one label; raise held_out or bring more"):
        fit(case_of("gpt2"), direction, **comments)


def test_the_embeddings_and_the_svd_are_those_of_the_plain_weights(case, fit, tmp_path):
    found, told = fit(case, {"method": "embeddings", "words": WORDS})
    unembedding = case.plain.lm_head.weight.numpy()
    means = {
        side: np.mean([unembedding[case.tokenizer(word).input_ids].mean(0) for word in words], 0)
        for side, words in WORDS.items()
    }
    np.testing.assert_allclose(found.vector, means["toward"] - means["away"], atol=1e-6)
    assert told["method"] == "embeddings"
    assert found.intercept == 0
    other = tmp_path / "other.safetensors"
    write_direction(other, Direction(W, 3.0))
    found, _ = fit(case, {"method": "svd", "of": "other", "number": 9}, file=str(other))
    values = np.concatenate([plain.values(block).numpy() for block in plain.blocks(case.plain)])
    values /= np.sqrt((values**2).sum(1, keepdims=True))
    nearest = values[np.argsort(values @ W)[-9:]]
    _, vectors = np.linalg.eigh(nearest.T @ nearest)
    largest = vectors[:, -1] * np.sign((nearest @ vectors[:, -1]).mean())
    np.testing.assert_allclose(found.vector, largest, atol=1e-5)
    assert found.intercept == 0


def test_the_nearest_value_vectors_are_in_order_of_their_cosine(case_of):
    case, number = case_of("gpt2"), tiny.LAYERS * tiny.NEURONS
    found = nearest_values(case.model, W, number, "key")
    along = [cosine(value, W) for value in found]
    assert along == sorted(along, reverse=True)
    everything = np.concatenate([plain.values(block).numpy() for block in plain.blocks(case.plain)])
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(everything, axis=0), atol=1e-6)
    with pytest.raises(ValueError, match=r"directions.svd.number is 133; the model has 132"):
        nearest_values(case.model, W, number + 1, "directions.svd.number")


def test_words_are_averaged_over_their_own_tokens(case_of):
    case = case_of("llama")
    tokenizer = tiny.build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tiny.END} $A", special_tokens=[(tiny.END, 0)]
    )
    lengths = []
    for word in WORDS["away"]:
        rows = word_rows(case.model, tokenizer, word, "key")  # begins every text with a token
        np.testing.assert_array_equal(rows, word_rows(case.model, case.tokenizer, word, "key"))
        lengths.append(len(rows))
    assert lengths == [len(case.tokenizer.tokenize(word)) for word in WORDS["away"]]
    assert max(lengths) > 1


@pytest.mark.parametrize("word", ["", "  ", "idiot"])
def test_a_word_that_is_empty_or_unknown_is_named(case_of, word):
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "fool": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    lm, key = case_of("llama").model, "directions.own.words.away"
    assert len(word_rows(lm, tokenizer, "fool", key)) == 1
    with pytest.raises(ValueError, match=rf"the word '{word}' of {key} is empty or unknown"):
        word_rows(lm, tokenizer, word, key)


def test_a_ready_vector_is_taken_over(case_of, fit, tmp_path):
    path = tmp_path / "probe.npy"
    np.save(path, W.astype(np.float32))
    found, told = fit(case_of("gpt2"), {"method": "file", "path": "x"}, file=str(path))
    np.testing.assert_array_equal(found.vector, W.astype(np.float32).astype(np.float64))
    assert told["method"] == "file"


def test_ready_directions_in_every_format(tmp_path):
    save_file({"vector": W, "intercept": np.array([0.5])}, tmp_path / "own.safetensors")
    found = ready_direction(tmp_path / "own.safetensors", len(W))
    np.testing.assert_array_equal(found.vector, W)
    assert found.intercept == 0.5
    single = W.astype(np.float32)
    for shape in ("of two columns", "of two rows", "a vector"):
        both = torch.tensor(np.stack([3 - single, single]))
        saved = {"of two columns": both.T, "of two rows": both, "a vector": both[1:]}[shape]
        torch.save(torch.nn.Parameter(saved.contiguous()), tmp_path / "probe.pt")
        found = ready_direction(tmp_path / "probe.pt", len(W))
        np.testing.assert_array_equal(found.vector, single.astype(np.float64))
        assert found.intercept == 0


@pytest.mark.parametrize(
    ("name", "save", "message"),
    [
        ("w.npy", lambda path: np.save(path, np.ones(31)), r"shape \(31,\) is no direction of"),
        ("w.npy", lambda path: np.save(path, np.ones((3, 32))), r"shape \(3, 32\) is no direction"),
        ("w.npy", lambda path: np.save(path, np.array(["a", {}], object)), "no vector can be read"),
        ("w.pt", lambda path: torch.save({"vector": torch.ones(32)}, path), "no vector can be"),
        ("w.pt", lambda path: torch.save(tiny.build_tokenizer(), path), "no vector can be read"),
        ("w.safetensors", lambda path: save_file({"w": np.ones(32)}, path), "no vector .*'vector'"),
        ("w.csv", lambda path: path.write_text("1"), r"ends in none of .safetensors, .npy and .pt"),
    ],
)  # fmt: skip
def test_what_is_no_direction_is_named(tmp_path, name, save, message):
    save(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
        ready_direction(tmp_path / name, 32)

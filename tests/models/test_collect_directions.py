"""Collecting the directions to steer with, against the plain weights."""

import json

import numpy as np
import plain
import pytest
import tiny
from collect_directions import collect_directions, nearest_values, word_rows
from neurondynamics.analysis.directions import (
    Direction,
    read_directions,
    write_direction,
    write_directions,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

LISTS = {"toxic": ["stupid", "angry"], "neutral": ["river", "house", "spring"]}


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.fixture
def collect(tmp_path):
    """A function that collects the directions of a case; it returns them, and what they are."""
    fitted = np.random.default_rng(1).normal(size=(2, tiny.HIDDEN))
    paths = [tmp_path / f"{name}.safetensors" for name in ("direction", "fitted", "directions")]
    write_direction(paths[0], Direction(fitted[1], 0.0))
    write_directions(paths[1], {"probe": fitted[0], "mean_difference": fitted[1]})

    def run(case, **changes):
        options = {"words": LISTS, "singular": 9, "dtype": "float32"} | changes
        description = tmp_path / "directions.json"
        collect_directions(str(case.folder), *map(str, paths), str(description), **options)
        return read_directions(paths[2]), json.loads(description.read_text()), fitted

    return run


def test_the_fitted_ones_are_taken_over_and_all_are_described(case_of, collect):
    found, description, fitted = collect(case_of("gpt2"))
    assert list(description) == ["mean_difference", "probe", "embeddings", "svd"]
    np.testing.assert_array_equal(found["probe"], fitted[0])
    np.testing.assert_array_equal(found["mean_difference"], fitted[1])
    for name, told in description.items():
        assert found[name].shape == (tiny.HIDDEN,)
        assert told["cosine"] == pytest.approx(cosine(found[name], fitted[1]))
        assert len(told["tokens_toward"]) == 20
    assert len({tuple(told["tokens_toward"]) for told in description.values()}) == 4


def test_the_embeddings_and_the_svd_are_those_of_the_plain_weights(case, collect):
    found, _, fitted = collect(case)
    unembedding = case.plain.lm_head.weight.numpy()
    means = {
        kind: np.mean([unembedding[case.tokenizer(word).input_ids].mean(0) for word in words], 0)
        for kind, words in LISTS.items()
    }
    np.testing.assert_allclose(found["embeddings"], means["toxic"] - means["neutral"], atol=1e-6)
    values = np.concatenate([plain.values(block).numpy() for block in plain.blocks(case.plain)])
    values /= np.sqrt((values**2).sum(1, keepdims=True))
    nearest = values[np.argsort(values @ fitted[1])[-9:]]
    _, vectors = np.linalg.eigh(nearest.T @ nearest)
    largest = vectors[:, -1] * np.sign((nearest @ vectors[:, -1]).mean())
    np.testing.assert_allclose(found["svd"], largest, atol=1e-5)


def test_the_nearest_value_vectors_are_in_order_of_their_cosine(case):
    direction = np.random.default_rng(3).normal(size=tiny.HIDDEN)
    found = nearest_values(case.model, direction, tiny.LAYERS * tiny.NEURONS)
    along = [cosine(value, direction) for value in found]
    assert along == sorted(along, reverse=True)
    everything = np.concatenate([plain.values(block).numpy() for block in plain.blocks(case.plain)])
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(everything, axis=0), atol=1e-6)


def test_more_value_vectors_than_there_are_name_the_key(case_of):
    with pytest.raises(ValueError, match=r"direction.singular is 133; the model has 132 neurons"):
        nearest_values(case_of("llama").model, np.ones(tiny.HIDDEN), 133)


def test_words_are_averaged_over_their_tokens(case_of):
    case = case_of("llama")
    rows = word_rows(case.model, case.tokenizer, LISTS, "neutral")
    assert max(len(row) for row in rows) > 1
    assert [len(row) for row in rows] == [
        len(case.tokenizer.tokenize(word)) for word in LISTS["neutral"]
    ]


def test_a_token_that_begins_every_text_is_no_part_of_a_word(case_of):
    tokenizer = tiny.build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tiny.END} $A", special_tokens=[(tiny.END, 0)]
    )
    case = case_of("llama")
    expected = word_rows(case.model, case.tokenizer, LISTS, "toxic")
    for rows, others in zip(
        word_rows(case.model, tokenizer, LISTS, "toxic"), expected, strict=True
    ):
        np.testing.assert_array_equal(rows, others)


@pytest.mark.parametrize("word", ["", "  "])
def test_an_empty_word_is_refused_before_anything_is_written(case_of, collect, tmp_path, word):
    with pytest.raises(ValueError, match=rf"the word '{word}' of direction.words.neutral is empty"):
        collect(case_of("llama"), words={**LISTS, "neutral": ["river", word]})
    assert not list(tmp_path.glob("directions*"))


def test_a_word_that_the_tokenizer_does_not_know_is_named(case_of):
    model = models.WordLevel({"[UNK]": 0, "fool": 1, "friend": 2}, unk_token="[UNK]")
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    lm = case_of("llama").model
    words = {"toxic": ["fool", "idiot"], "neutral": ["friend"]}
    assert len(word_rows(lm, tokenizer, words, "neutral")) == 1
    with pytest.raises(ValueError, match=r"'idiot' of direction.words.toxic is empty or unknown"):
        word_rows(lm, tokenizer, words, "toxic")

"""Fitting the direction end to end on samples with invented scores."""

import json

import numpy as np
import pandas as pd
import plain
import pytest
import tiny
from fit_direction import fit_direction, mean_residuals, mixed_prompts, nearest_values, word_rows
from neurondynamics.analysis.directions import read_direction, read_directions
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

WORDS = (" stupid", " angry")  # a sample is toxic if it holds one of them
LISTS = {"toxic": ["stupid", "angry"], "neutral": ["river", "house", "spring"]}
SAMPLES = (
    " stupid old dog",
    " house on the hill",
    " man from the north",
    ", you stupid stupid dog",
    " angry and stupid",
    " river in the spring",
)


@pytest.fixture
def scored(case_of, tmp_path):
    """Two tables of scored samples, of two splits whose prompts are numbered alike."""
    tokenizer = case_of("llama").tokenizer
    paths = []
    for split, prompts in {"train": tiny.PROMPTS[:6], "analysis": tiny.PROMPTS[6:]}.items():
        rows = [
            {
                "prompt_id": number,
                "sample": sample,
                "prompt": prompt,
                "text": text,
                "tokens": np.array(tokenizer(text).input_ids, dtype=np.int32),
                "toxicity": 0.9 if any(word in text for word in WORDS) else 0.1,
            }
            for number, prompt in enumerate(prompts)
            for sample, text in enumerate(SAMPLES)
        ]
        paths.append(str(tmp_path / f"{split}-scored.parquet"))
        pd.DataFrame(rows).to_parquet(paths[-1])
    return paths


def fit(case, scored, tmp_path, **changes):
    options = {
        "method": "probe", "held_out": 0.3, "threshold": 0.5, "dtype": "float32", "device": "cpu",
        "threads": 1, "max_tokens": 32, "batch_size": 7, "seed": 0, "words": LISTS, "singular": 9,
    }  # fmt: skip
    names = ("direction.safetensors", "directions.safetensors", "direction.json")
    files = [str(tmp_path / name) for name in names]
    fit_direction(str(case.folder), scored, *files, **options | changes)
    return read_direction(files[0]), json.loads((tmp_path / names[-1]).read_text())


def plain_features(case, table):
    """The last block's output averaged over the positions that produced a sample."""
    last = plain.blocks(case.plain)[-1:]
    rows = [
        plain.read(
            case.plain, case.tokenizer(row.prompt).input_ids, list(row.tokens), last, "output"
        )
        for row in table.itertuples()
    ]
    return np.stack([row[0].mean(0).numpy() for row in rows])


def test_features_are_means_over_the_new_token_positions(case, scored):
    table = mixed_prompts(scored, 0.5)
    prompts = [case.tokenizer(prompt).input_ids for prompt in table.prompt]
    found = mean_residuals(case.model, prompts, table.tokens.tolist(), 7)
    np.testing.assert_allclose(found, plain_features(case, table), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["probe", "mean_difference"])
def test_the_direction_tells_the_samples_apart(case_of, scored, tmp_path, method):
    case = case_of("llama")
    direction, description = fit(case, scored, tmp_path, method=method)
    table = mixed_prompts(scored, 0.5)
    along = plain_features(case, table) @ direction.vector + direction.intercept
    toxic = table.toxicity > 0.5
    assert along[toxic].mean() > along[~toxic].mean()
    assert ((along > 0) == toxic).mean() > 0.7
    assert direction.vector.shape == (tiny.HIDDEN,)
    assert description["method"] == method
    assert (description["texts"], description["toxic_texts"]) == (60, 30)
    assert description["prompts"] == 10
    assert description["held_out_texts"] == 18  # whole prompts
    assert description["held_out"]["majority_accuracy"] == 0.5
    assert 0.5 < description["held_out"]["auroc"] <= 1
    assert len(description["tokens_toward"]) == len(description["tokens_away"]) == 20
    assert description["tokens_toward"] != description["tokens_away"]


def test_the_mean_difference_is_that_of_plain_features(case_of, scored, tmp_path):
    case = case_of("llama")
    direction, _ = fit(case, scored, tmp_path, method="mean_difference")
    table = mixed_prompts(scored, 0.5)
    features = plain_features(case, table)
    differences = []
    for number in table.number.unique():
        own, toxic = (table.number == number).to_numpy(), (table.toxicity > 0.5).to_numpy()
        differences.append(features[own & toxic].mean(0) - features[own & ~toxic].mean(0))
    np.testing.assert_allclose(direction.vector, np.mean(differences, 0), rtol=1e-3, atol=1e-4)


def test_a_fit_repeats_itself(case_of, scored, tmp_path):
    case = case_of("llama")
    first, told = fit(case, scored, tmp_path)
    again, told_again = fit(case, scored, tmp_path)
    np.testing.assert_array_equal(first.vector, again.vector)
    assert told == told_again


def test_prompts_of_two_splits_are_not_confounded(scored):
    table = mixed_prompts(scored, 0.5)
    assert table.groupby("number").prompt.nunique().max() == 1
    assert table.number.nunique() == 10


def test_prompts_without_both_kinds_and_unscored_samples_are_left_out(scored):
    table = pd.read_parquet(scored[0])
    table.loc[table.prompt_id == 2, "toxicity"] = 0.1
    table.loc[(table.prompt_id == 3) & (table["sample"] == 0), "toxicity"] = np.nan
    table.loc[(table.prompt_id == 4) & (table.toxicity < 0.5), "toxicity"] = np.nan
    table.to_parquet(scored[0])
    mixed = mixed_prompts(scored[:1], 0.5)
    assert sorted(mixed.prompt_id.unique()) == [0, 1, 3, 5]
    assert (mixed.prompt_id == 3).sum() == len(SAMPLES) - 1


def test_too_few_mixed_prompts_name_the_keys(case_of, scored, tmp_path):
    with pytest.raises(ValueError, match=r"only 0 prompts .*threshold 0.95.*prompts.train.number"):
        fit(case_of("llama"), scored, tmp_path, threshold=0.95)
    assert not (tmp_path / "direction.safetensors").exists()


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize("method", ["probe", "mean_difference"])
def test_the_studys_direction_is_one_of_those_that_steer(case_of, scored, tmp_path, method):
    case = case_of("gpt2")
    other = {"probe": "mean_difference", "mean_difference": "probe"}[method]
    alone, _ = fit(case, scored, tmp_path, method=other)
    direction, description = fit(case, scored, tmp_path, method=method)
    found = read_directions(tmp_path / "directions.safetensors")
    np.testing.assert_array_equal(found[method], direction.vector)
    np.testing.assert_array_equal(found[other], alone.vector)
    assert list(description["directions"]) == ["probe", "mean_difference", "embeddings", "svd"]
    for name, told in description["directions"].items():
        assert found[name].shape == (tiny.HIDDEN,)
        assert told["cosine"] == pytest.approx(cosine(found[name], direction.vector))
    told = description["directions"]
    assert told[method]["tokens_toward"] == description["tokens_toward"]
    assert len({tuple(other["tokens_toward"]) for other in told.values()}) == 4


def test_the_embeddings_and_the_svd_are_those_of_the_plain_weights(case, scored, tmp_path):
    direction, _ = fit(case, scored, tmp_path)
    found = read_directions(tmp_path / "directions.safetensors")
    unembedding = case.plain.lm_head.weight.numpy()
    means = {
        kind: np.mean([unembedding[case.tokenizer(word).input_ids].mean(0) for word in words], 0)
        for kind, words in LISTS.items()
    }
    np.testing.assert_allclose(found["embeddings"], means["toxic"] - means["neutral"], atol=1e-6)
    values = np.concatenate([plain.values(block).numpy() for block in plain.blocks(case.plain)])
    values /= np.sqrt((values**2).sum(1, keepdims=True))
    nearest = values[np.argsort(values @ direction.vector)[-9:]]
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
def test_an_empty_word_is_refused_before_anything_is_written(case_of, scored, tmp_path, word):
    with pytest.raises(ValueError, match=rf"the word '{word}' of direction.words.neutral is empty"):
        fit(case_of("llama"), scored, tmp_path, words={**LISTS, "neutral": ["river", word]})
    assert not list(tmp_path.glob("direction*"))


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

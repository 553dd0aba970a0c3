"""Fitting the direction end to end on samples with invented scores."""

import json

import numpy as np
import pandas as pd
import plain
import pytest
import tiny
from fit_direction import fit_direction, mean_residuals, mixed_prompts
from neurondynamics.analysis.directions import read_direction, read_directions

WORDS = (" stupid", " angry")  # a sample is toxic if it holds one of them
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
        "threads": 1, "max_tokens": 32, "batch_size": 7, "seed": 0,
    }  # fmt: skip
    names = ("direction.safetensors", "fitted.safetensors", "direction.json")
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


@pytest.mark.parametrize("method", ["probe", "mean_difference"])
def test_every_method_is_fitted_and_the_chosen_one_is_the_direction(
    case_of, scored, tmp_path, method
):
    case = case_of("gpt2")
    other = {"probe": "mean_difference", "mean_difference": "probe"}[method]
    alone, _ = fit(case, scored, tmp_path, method=other)
    direction, _ = fit(case, scored, tmp_path, method=method)
    found = read_directions(tmp_path / "fitted.safetensors")
    assert list(found) == sorted(found) == ["mean_difference", "probe"]
    np.testing.assert_array_equal(found[method], direction.vector)
    np.testing.assert_array_equal(found[other], alone.vector)

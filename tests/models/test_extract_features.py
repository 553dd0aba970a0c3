"""Features of labelled texts, against plain means of the residual stream."""

import numpy as np
import pandas as pd
import plain
import pytest
import tiny
import torch
from extract_features import extract_features, own_tokens
from neurondynamics.analysis.labelled import read_features
from tokenizers.processors import TemplateProcessing

TEXTS = (*tiny.SENTENCES[10:], "", "a", *tiny.PROMPTS[3:6])
LAYER = 1
COMMENTS = {"format": "csv", "text_field": "comment"}


@pytest.fixture
def extract(tmp_path):
    """A function that extracts the features of a case's texts."""

    def run(case, texts, labelled, max_tokens=12, layer=LAYER):
        path = tmp_path / "features.safetensors"
        reading = tiny.reading(max_tokens=max_tokens, batch_size=3)
        names = [str(text) for text in texts]
        extract_features(
            str(case.folder), names, str(path), reading=reading, labelled=labelled, layer=layer
        )
        return read_features(path)

    return run


@pytest.fixture
def dataset(tmp_path):
    """The folder of a fetched dataset."""
    folder = tmp_path / "comments"
    folder.mkdir()
    pd.DataFrame({"comment": TEXTS, "toxic": 0}).to_csv(folder / "train.csv", index=False)
    return folder


def means(case, texts, first=0, layer=LAYER):
    """Return the plain means over each text's tokens from the first one, of at most 12 tokens."""
    block = plain.blocks(case.plain)[layer]
    rows = []
    for text in texts:
        ids = [0] * first + case.tokenizer(text).input_ids[:12]
        with plain.listening([block], "output") as heard:
            plain.logits(case.plain, ids)
        rows.append(heard[0][0, first:].mean(0).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("family", ["gpt2", "mistral", "gemma2"])
def test_features_of_a_dataset_are_means_over_its_own_tokens(case_of, extract, dataset, family):
    case = case_of(family)
    features, rows = extract(case, [dataset], COMMENTS)
    assert rows.tolist() == list(range(len(TEXTS) - 1))  # of the rows that have a text
    assert features.dtype == np.float32
    expected = means(case, [text for text in TEXTS if text])
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_features_of_samples_are_means_over_the_new_token_positions(case_of, extract, tmp_path):
    case = case_of("llama")
    rows = [
        {"prompt": prompt, "sample": sample, "score": float(sample), "tokens": tokens}
        for prompt, greedy in zip(tiny.PROMPTS[:5], case.greedy, strict=False)
        for sample, tokens in enumerate((greedy, greedy[:1]))
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "scored.parquet")
    scored = tmp_path / "scored.parquet"
    features, numbers = extract(case, [scored], {"threshold": 0.5}, max_tokens=32, layer=2)
    assert numbers.tolist() == list(range(10))
    block = plain.blocks(case.plain)[2:]
    expected = [
        plain.read(case.plain, case.tokenizer(r["prompt"]).input_ids, r["tokens"], block, "output")
        for r in sorted(rows, key=lambda row: (row["prompt"], row["sample"]))
    ]
    expected = np.stack([row[0].mean(0).numpy() for row in expected])
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
    assert features.dtype == np.float64  # as means are added up


def test_tokens_that_begin_and_end_every_text_are_read_but_do_not_count():
    tokenizer = tiny.build_tokenizer()
    bare = [tokenizer(text).input_ids for text in TEXTS]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tiny.END} $A {tiny.END}", special_tokens=[(tiny.END, 0)]
    )
    prompts, continuations, rows = own_tokens(tokenizer, list(TEXTS), 12)
    kept = [ids[:12] for ids in bare if ids]
    assert rows.tolist() == [row for row, ids in enumerate(bare) if ids]
    assert prompts == [[0, ids[0]] for ids in kept]
    # as many positions count as there are own tokens; the last new token is never read
    assert [tokens[:-1] for tokens in continuations] == [ids[1:] for ids in kept]


def test_a_nan_is_named(case_of, extract, dataset, tmp_path):
    case = case_of("llama")
    broken = tiny.build_model("llama")
    broken.model.layers[0].mlp.down_proj.weight[3, 5] = torch.nan
    tiny.save(broken, tmp_path / "broken")
    with pytest.raises(ValueError, match="NaN or infinite for labelled text 0"):
        extract(type(case)(**vars(case) | {"folder": tmp_path / "broken"}), [dataset], COMMENTS)
    assert not (tmp_path / "features.safetensors").exists()

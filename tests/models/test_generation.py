"""Batched generation and token losses against one text at a time, without cache and padding."""

import json

import numpy as np
import pandas as pd
import plain
import pytest
import tiny
import torch
from neurondynamics.lm import generation
from neurondynamics.lm.generation import (
    NonFiniteError,
    decode,
    end_tokens,
    prefill,
    sampling_uniforms,
    sorted_batches,
)
from neurondynamics.lm.loading import load_model
from sample_continuations import sample_continuations

NEW_TOKENS = 8


def generate(model, prompts, batch_size):
    """Continue prompts in batches; return the continuations in the prompts' order."""
    new = [None] * len(prompts)
    for batch in sorted_batches([len(prompt) for prompt in prompts], batch_size):
        tokens = decode(model, prefill(model, [prompts[i] for i in batch]), NEW_TOKENS).lists()
        for i, row in zip(batch, tokens, strict=True):
            new[i] = row
    return new


def test_the_plain_continuations_put_something_to_the_test(every_case):
    case = every_case
    lengths = [len(new) for new in case.greedy]
    assert min(lengths) < NEW_TOKENS == max(lengths)  # some end early
    assert len({tuple(new) for new in case.greedy}) >= len(case.greedy) - 1
    assert min(map(len, case.prompts)) == 1
    assert max(map(len, case.prompts)) > 20


@pytest.mark.parametrize("batch_size", [1, 3, len(tiny.PROMPTS)])
def test_batched_equals_one_at_a_time(every_case, batch_size):
    assert generate(every_case.model, every_case.prompts, batch_size) == every_case.greedy


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_batch_is_prefilled_in_parts_of_similar_length(case, monkeypatch, rows):
    """Also where a part holds prompts of one token only, and others do not."""
    monkeypatch.setattr(generation, "PREFILL_ROWS", rows)
    assert generate(case.model, case.prompts, len(case.prompts)) == case.greedy
    unsorted = decode(case.model, prefill(case.model, case.prompts), NEW_TOKENS).lists()
    assert unsorted == case.greedy


def test_parts_leave_little_padding(case_of, monkeypatch):
    """What is computed for the prompts grows with their tokens, not with the longest."""
    model = case_of("llama").model
    monkeypatch.setattr(generation, "PREFILL_ROWS", 2)
    shapes = []
    mlp = plain.mlp(plain.blocks(model)[0])
    hook = mlp.register_forward_hook(lambda _, __, output: shapes.append(output.shape[:2]))
    prefill(model, [[7] * 9, [8] * 8, [9] * 3, [1] * 2])
    hook.remove()
    assert shapes == [(2, 8), (2, 2)]


@pytest.mark.parametrize("rows", [2, 32])
def test_prompts_of_one_token_alone(case, monkeypatch, rows):
    monkeypatch.setattr(generation, "PREFILL_ROWS", rows)
    prompts = [[5], [77], [300]]
    expected = [plain.generate(case.plain, prompt, NEW_TOKENS, case.ends) for prompt in prompts]
    assert generate(case.model, prompts, 3) == expected


def test_equals_generate_of_transformers(every_case):
    case = every_case
    for prompt, expected in zip(case.prompts, case.greedy, strict=True):
        ids = torch.tensor([prompt])
        whole = case.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=0,
        )
        assert whole[0, len(prompt) :].tolist() == expected


def test_the_token_that_ends_a_text_is_its_last(case):
    ended = [new for new in generate(case.model, case.prompts, 4) if len(new) < NEW_TOKENS]
    assert ended
    for new in ended:
        assert new[-1] in case.ends
        assert not set(new[:-1]) & set(case.ends)


def test_a_prefix_serves_many_and_stays_as_it_was(case):
    prefix = prefill(case.model, case.prompts)
    first = decode(case.model, prefix, NEW_TOKENS)
    again = decode(case.model, prefix, NEW_TOKENS)
    assert first.lists() == again.lists() == case.greedy
    assert (first.tokens[first.lengths[:, None] <= np.arange(NEW_TOKENS)] == -1).all()


def test_ends_are_read_from_a_folder_without_a_generation_configuration(tmp_path):
    folder = tiny.write_model(tmp_path / "model")
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 7}))
    assert end_tokens(load_model(folder, "float32", "cpu")) == [7]


def draw(model, prompt, uniforms, temperature, ends):
    """Sample one continuation by hand: the first token whose cumulative probability passes u."""
    ids = list(prompt)
    for u in uniforms:
        p = (plain.logits(model, ids)[-1] / temperature).softmax(-1).numpy()
        ids.append(int(np.argmax(np.cumsum(p) > u)))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def test_samples_do_not_depend_on_the_batch(case, tmp_path, prompts_file):
    output = tmp_path / "samples.parquet"
    expected = []
    for text, prompt in zip(tiny.PROMPTS, case.prompts, strict=True):
        for uniforms in sampling_uniforms(11, text, 3, NEW_TOKENS):
            expected.append(draw(case.plain, prompt, uniforms, 1.5, case.ends))
    assert len({tuple(tokens) for tokens in expected}) > len(expected) // 2
    drawing = {"samples": 3, "temperature": 1.5, "new_tokens": NEW_TOKENS, "seed": 11}
    for batch_size in (3, 12, 100):
        options = drawing | {"reading": tiny.reading(batch_size=batch_size)}
        shards = 1 if batch_size == 100 else 3
        parts = []
        for shard in (f"{k}-of-{shards}" for k in range(1, shards + 1)):
            sample_continuations(
                str(case.folder), str(prompts_file), str(output), shard=shard, **options
            )
            parts.append(pd.read_parquet(output))
        table = pd.concat(parts).sort_values(["prompt_id", "sample"])
        assert [row.tolist() for row in table.tokens] == expected
        assert table.prompt_id.tolist() == list(np.repeat(range(len(tiny.PROMPTS)), 3))
        assert table["sample"].tolist() == [0, 1, 2] * len(tiny.PROMPTS)
        assert table.prompt.tolist() == list(np.repeat(tiny.PROMPTS, 3))
        assert table.text.tolist() == [
            case.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in expected
        ]


def test_a_sample_of_more_begins_like_a_sample_of_fewer():
    few, many = sampling_uniforms(3, "a", 2, 4), sampling_uniforms(3, "a", 6, 4)
    np.testing.assert_array_equal(few, many[:2])
    assert (sampling_uniforms(3, "b", 2, 4) != few).all()
    assert (sampling_uniforms(4, "a", 2, 4) != few).all()


def test_logits_that_are_not_finite_name_their_rows(case_of, tmp_path):
    case = case_of("llama")
    model = load_model(case.folder, "float32", "cpu")
    model.model.embed_tokens.weight[case.prompts[1][4]] = torch.nan
    with pytest.raises(NonFiniteError) as caught:
        decode(model, prefill(model, case.prompts[:2]), NEW_TOKENS)
    assert caught.value.rows == [1]

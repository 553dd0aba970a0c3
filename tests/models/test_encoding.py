"""Text and tokens do not stand for each other, wherever a text is read and wherever one is written.

Three kinds of tokenizers: bytes with merges; a space before every text; tokens at both ends.
"""

import pandas as pd
import pytest
import tiny
from extract_features import own_tokens
from neurondynamics.data.records import write_jsonl
from neurondynamics.data.tables import read_parquet
from neurondynamics.lm.encoding import (
    added_tokens,
    decode_continuations,
    encode_continuations,
    encode_prompts,
    encode_texts,
)
from neurondynamics.lm.loading import load_tokenizer, tokenizer_digest
from neurondynamics.lm.passages import neutral_passages
from neurondynamics.tuning.pairs import tokenise_pairs, with_tokens
from pair_preferences import pair_preferences
from sample_continuations import sample_continuations
from steer_continuations import cut_at_words
from tune_model import tokenised

TEXTS = ["The old house", "A river 日本 é", " the wind", "I"]
CONTINUED = [" by the river", " was, they said", " was cold", "'m angry"]


@pytest.fixture(scope="module", params=list(tiny.TOKENIZERS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    """A model whose tokenizer is of the kind."""
    place = tmp_path_factory.mktemp("model")
    tiny.build_model("llama").save_pretrained(place)
    tiny.TOKENIZERS[kind]().save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


BEGINNING = {"byte-level": [], "space before a text": ["<s>"], "tokens at both ends": [tiny.END]}


def test_what_is_read_begins_as_texts_begin_and_does_not_end(kind, tokenizer):
    begin, behind = added_tokens(tokenizer)
    assert tokenizer.convert_ids_to_tokens(begin) == BEGINNING[kind]
    assert len(behind) == (kind == "tokens at both ends")
    for text, ids in zip(TEXTS, encode_texts(tokenizer, TEXTS), strict=True):
        own = tokenizer(text, add_special_tokens=False).input_ids
        assert ids == [*begin, *own]
    assert encode_prompts(tokenizer, TEXTS, 3) == [
        ids[:3] for ids in encode_texts(tokenizer, TEXTS)
    ]


def test_a_continuation_is_what_follows_the_prompt_in_the_text_of_both(tokenizer):
    prompts = encode_texts(tokenizer, TEXTS)
    continued = encode_continuations(tokenizer, TEXTS, CONTINUED)
    assert None not in continued
    for prompt, new, text, more in zip(prompts, continued, TEXTS, CONTINUED, strict=True):
        assert encode_texts(tokenizer, [text + more]) == [prompt + new]
    assert decode_continuations(tokenizer, prompts, continued) == CONTINUED


def test_a_token_over_the_border_is_no_continuation(tokenizer):
    cut = encode_continuations(tokenizer, ["The old hou", "The old", ""], ["se", "", "x"])
    assert cut[:2] == [None, None]


def test_windows_passages_and_labelled_texts_have_no_token_that_ends_texts(tokenizer):
    begin, _ = added_tokens(tokenizer)
    articles = ["\n".join(tiny.SENTENCES[-4:]), "\n".join(tiny.SENTENCES[:5])]
    sizes = {"windows": 4, "window_tokens": 8, "continuations": 3, "passage_tokens": 5}
    windows, passages = neutral_passages(
        tokenizer, articles, articles, new_tokens=3, seed=0, **sizes
    )
    whole = [tokenizer(article, add_special_tokens=False).input_ids for article in articles]
    for window in windows.tolist():
        assert window[: len(begin)] == begin
        own = window[len(begin) :]
        assert any(own == ids[n : n + len(own)] for ids in whole for n in range(len(ids)))
    for passage in passages:
        text = tokenizer.decode(passage, skip_special_tokens=True)
        assert any(line.startswith(text) for article in articles for line in article.split("\n"))
        assert passage[-1] not in tokenizer.all_special_ids
    prompts, continuations, _ = own_tokens(tokenizer, TEXTS, 50)
    for text, prompt, new in zip(TEXTS, prompts, continuations, strict=True):
        assert prompt[:-1] == begin
        own = tokenizer(text, add_special_tokens=False).input_ids
        assert [prompt[-1], *new[:-1]] == own


def test_sentences_are_cut_within_their_tokens(tokenizer):
    for number in (4, 9):
        cut = cut_at_words(tokenizer, list(tiny.SENTENCES), number)
        for text, ids in zip(cut, encode_prompts(tokenizer, cut, None), strict=True):
            assert len(ids) <= number or " " not in text


@pytest.fixture(scope="module")
def sampled(folder, tmp_path_factory):
    """Twelve samples of each of ten prompts."""
    place = tmp_path_factory.mktemp("sampled")
    prompts = [{"prompt_id": n, "text": text} for n, text in enumerate(tiny.PROMPTS)]
    write_jsonl(place / "prompts.jsonl", prompts)
    sample_continuations(
        *(str(folder), str(place / "prompts.jsonl"), str(place / "samples.parquet")),
        shard="1-of-1",
        reading=tiny.reading(),
        samples=12,
        temperature=2.0,
        new_tokens=4,
        seed=0,
    )
    return read_parquet(place / "samples.parquet")


def test_a_sample_is_tuned_on_as_it_was_written(folder, tokenizer, sampled, tmp_path):
    """Also where its text would come back as other tokens, as many samples' do."""
    scored = sampled.assign(score=sampled["sample"] / 12)
    path = tmp_path / "scored.parquet"
    scored.to_parquet(path)
    output = str(tmp_path / "pairs.jsonl")
    options = {"method": "sampled", "maximum": 99, "seed": 0, "margin": 0.1}
    pair_preferences([str(path)], [], str(folder), output, **options)
    pairs = pd.read_json(output, lines=True, dtype=False).to_dict("records")
    drawn = {(row.prompt, tuple(row.tokens)): row.text for row in sampled.itertuples()}
    assert pairs
    for pair in pairs:
        for side in ("chosen", "rejected"):
            assert drawn[pair["prompt"], tuple(pair[f"{side}_tokens"])] == pair[side]
    for row, pair in zip(tokenise_pairs(tokenizer, pairs, 32), pairs, strict=True):
        assert row["prompt_ids"] == encode_prompts(tokenizer, [pair["prompt"]], 32)[0]
        assert [row[f"{s}_ids"] for s in ("chosen", "rejected")] == [
            pair[f"{s}_tokens"] for s in ("chosen", "rejected")
        ]
    texts = [prompt + text for prompt, text in zip(sampled.prompt, sampled.text, strict=True)]
    again = encode_texts(tokenizer, texts)
    others = [
        ids != [*prompt, *new]
        for ids, prompt, new in zip(
            again, encode_texts(tokenizer, sampled.prompt.tolist()), sampled.tokens, strict=True
        )
    ]
    assert any(others)  # a random model's samples are seldom merged as a tokenizer would


def test_the_text_of_a_sample_is_what_it_adds_to_the_prompt(tokenizer, sampled):
    prompts = encode_texts(tokenizer, sampled.prompt.tolist())
    for prompt, row in zip(prompts, sampled.itertuples(), strict=True):
        whole = tokenizer.decode([*prompt, *row.tokens], skip_special_tokens=True)
        assert row.prompt + row.text == whole or whole.count("\N{REPLACEMENT CHARACTER}")


def test_pairs_of_another_tokenizer_are_encoded_anew(folder, tokenizer, kind, tmp_path):
    """Tokens are of use under the digest of the tokenizer that they are of, and no other."""
    pairs = pd.DataFrame(
        {
            "prompt": TEXTS[:2],
            "chosen": CONTINUED[:2],
            "rejected": [" was sold", " is wide"],
            "chosen_tokens": [[5, 6], [7]],
            "rejected_tokens": [[8], [9]],
            "tokenizer": [tokenizer_digest(folder), "another"],
        }
    )
    found = with_tokens(pairs, tokenizer, tokenizer_digest(folder))
    assert found["chosen_tokens"].tolist()[0] == [5, 6]
    assert found["rejected_tokens"].tolist()[0] == [8]
    (expected,) = encode_continuations(tokenizer, TEXTS[1:2], CONTINUED[1:2])
    assert found["chosen_tokens"].tolist()[1] == expected
    assert set(found["tokenizer"]) == {tokenizer_digest(folder)}
    with pytest.raises(ValueError, match="the pairs hold the tokens of another tokenizer"):
        tokenised(str(folder), pairs.to_dict("records"), 32, None)

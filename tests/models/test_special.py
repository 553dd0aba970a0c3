"""Special tokens are decided once, when a model is brought, and hold for both models."""

import json

import pytest
import tiny
from fetch_model import fetch_model
from neurondynamics.lm.encoding import added_tokens, encode_prompts
from neurondynamics.lm.generation import end_tokens
from neurondynamics.lm.loading import load_model, load_tokenizer
from neurondynamics.lm.special import padded_for_training, read_special
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHAT = "{% for m in messages %}{{ m['content'] }}<|turn|>{% endfor %}"


def patch(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: v for key, v in content.items() if v is not None}))


def bring(tmp_path, source, base=None):
    folder = tmp_path / "resources" / source.name
    fetch_model(str(folder), source={"path": str(source)}, shape={}, base=base and str(base))
    return folder


@pytest.fixture
def source(tmp_path):
    return tiny.write_model(tmp_path / "mine")


def with_ends(folder, *, generation=None, config=None, tokenizer=tiny.END, chat=None):
    """Let the files of a model say which tokens end a text."""
    patch(folder / "generation_config.json", eos_token_id=generation)
    patch(folder / "config.json", eos_token_id=config)
    added = tiny.build_tokenizer()
    own = PreTrainedTokenizerFast(tokenizer_object=added.backend_tokenizer, eos_token=tokenizer)
    if chat:
        own.add_special_tokens({"additional_special_tokens": ["Ġthe"]})
        own.chat_template = chat
    own.save_pretrained(folder)


THE = tiny.build_tokenizer().convert_tokens_to_ids("Ġthe")


@pytest.mark.parametrize(
    ("stated", "ends", "origin"),
    [
        ({"generation": [7, 5, 7], "config": 3}, [7, 5], "generation_config.json"),
        ({"config": 3}, [3], "config.json"),
        ({"generation": -1}, [0], "the tokenizer"),
        ({"tokenizer": None, "chat": CHAT.replace("<|turn|>", "Ġthe")}, [THE], "chat template"),
        ({"tokenizer": None}, [], None),
    ],
)
def test_ends_come_from_the_first_file_that_states_any(source, tmp_path, stated, ends, origin):
    with_ends(source, **stated)
    folder = bring(tmp_path, source)
    record = read_special(folder)
    assert (record["ends"], record["ends_from"]) == (ends, origin)
    assert end_tokens(load_model(folder, "float32", "cpu")) == ends


@pytest.mark.parametrize("end", [400, "0", 1.5, True, -2])
def test_an_end_that_is_no_token_is_refused(source, tmp_path, end):
    patch(source / "generation_config.json", eos_token_id=end)
    with pytest.raises(
        ValueError, match=r"mine.generation_config.json: eos_token_id has .*0 to 399"
    ):
        bring(tmp_path, source)


def test_both_models_end_where_the_base_model_does(source, tmp_path, caplog):
    tuned = tiny.save(tiny.nudge(tiny.build_model("llama"), 0.05), tmp_path / "tuned")
    patch(tuned / "generation_config.json", eos_token_id=[300, 0])
    base = bring(tmp_path, source)
    brought = bring(tmp_path, tuned, base)
    assert end_tokens(load_model(brought, "float32", "cpu")) == [0]
    assert read_special(brought)["own_ends"] == [300, 0]
    assert "[0] in the base model" in caplog.text
    assert "[300, 0] in the tuned version, by generation_config.json" in caplog.text


def test_ends_that_only_the_tuned_version_has_are_refused(source, tmp_path):
    tuned = tiny.save(tiny.nudge(tiny.build_model("llama"), 0.05), tmp_path / "tuned")
    with_ends(source, tokenizer=None)
    base = bring(tmp_path, source)
    with pytest.raises(
        ValueError, match=r"no token ends a text of the base model, .*mine, and \[0\]"
    ):
        bring(tmp_path, tuned, base)


def adding(folder, pattern):
    """Let a tokenizer add its special token at the ends of a text."""
    tokenizer = tiny.build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=pattern, special_tokens=[(tiny.END, 0)]
    )
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("pattern", "begin", "finish"),
    [("$A", [], []), (f"{tiny.END} $A", [0], []), (f"{tiny.END} $A {tiny.END}", [0], [0])],
)
def test_prompts_go_on_where_a_tokenizer_would_end_them(source, tmp_path, pattern, begin, finish):
    adding(source, pattern)
    folder = bring(tmp_path, source)
    record = read_special(folder)
    assert (record["begin"], record["finish"]) == (begin, finish)
    tokenizer, texts = load_tokenizer(folder), list(tiny.PROMPTS)
    assert added_tokens(tokenizer) == (begin, finish)
    plain = tokenizer(texts, add_special_tokens=False).input_ids
    assert encode_prompts(tokenizer, texts, None) == [begin + ids for ids in plain]
    assert encode_prompts(tokenizer, texts, 2) == [(begin + ids)[:2] for ids in plain]


def with_pad(folder):
    tokenizer = tiny.build_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)


def test_a_token_without_embedding_matters_only_in_a_text(source, tmp_path):
    """Neither padding nor the comparison of two models needs it."""
    with_pad(source)
    base = bring(tmp_path, source)
    record = read_special(base)
    assert (record["pad"], record["without_embedding"]) == (None, [tiny.VOCABULARY])
    tuned = tiny.save(tiny.nudge(tiny.build_model("llama"), 0.05), tmp_path / "tuned")
    bring(tmp_path, tuned, base)
    tokenizer = load_tokenizer(base)
    assert encode_prompts(tokenizer, ["You are a"], None)
    with pytest.raises(ValueError, match=r"'A \[PAD\] b' holds '\[PAD\]', token 400 .*400 embedd"):
        encode_prompts(tokenizer, ["You are a", "A [PAD] b"], None)
    assert padded_for_training(tokenizer).pad_token_id == 0


def test_a_tokenizer_of_another_model_is_refused(source, tmp_path):
    model = tiny.build_model("llama")
    model.resize_token_embeddings(tiny.VOCABULARY - 8)
    model.save_pretrained(source)
    with pytest.raises(ValueError, match="tokenizer has 400 tokens and the model 392 embeddings"):
        bring(tmp_path, source)


def with_words(words):
    """Return a tokenizer of whole words, to whom others are unknown, and say nothing of that."""
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a"], "mine: the tokenizer has 2 tokens for the 400 embeddings of the model, less than"),
        ([f"w{number}" for number in range(198)], "has 199 tokens for the 400 embeddings"),
    ],
)
def test_a_tokenizer_with_few_tokens_is_of_another_model(source, tmp_path, words, said):
    with_words(words).save_pretrained(source)
    with pytest.raises(ValueError, match=said):
        bring(tmp_path, source)


@pytest.mark.parametrize("known", ["the", "the people of house said that"])
def test_a_tokenizer_that_knows_no_ordinary_words_is_told(source, tmp_path, caplog, known):
    words = known.split()
    with_words([*words, *(f"w{number}" for number in range(300))]).save_pretrained(source)
    bring(tmp_path, source)
    assert ("does not know 11 of 12 ordinary English words" in caplog.text) == (len(words) == 1)


def test_a_tokenizer_without_special_tokens_can_be_trained_with(source):
    backend = tiny.build_tokenizer().backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(source)
    assert padded_for_training(load_tokenizer(source)).pad_token_id == 0

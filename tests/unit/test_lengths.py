"""No study asks its model to read more tokens than it has positions."""

import copy

import pytest
from neurondynamics.study.lengths import contradictions, longest, read_lengths

CONFIG = {
    "model": {"positions": 100},
    "prompts": {"max_tokens": 32},
    "generation": {"new_tokens": 20},
    "corpus": {"window_tokens": 100, "passage_tokens": 40},
    "preferences": {"prompt_tokens": 30, "new_tokens": 60},
    "directions": {"probe": {"tokens": 70}, "words": {}},
    "tuned": {"dpo": {"prompt_tokens": 64, "continuation_tokens": 30}, "ready": {}},
}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("prompts.max_tokens", 81, "prompts.max_tokens + generation.new_tokens: 101 tokens, and"),
        ("corpus.window_tokens", 101, "corpus.window_tokens: 101 tokens, and the model reads 100"),
        ("corpus.passage_tokens", 81, "corpus.passage_tokens + generation.new_tokens: 101"),
        ("preferences.new_tokens", 71, "preferences.prompt_tokens + preferences.new_tokens: 101"),
        (
            "preferences.horizon",
            12,
            "preferences.prompt_tokens + preferences.new_tokens + preferences.horizon - 1: 101",
        ),
        ("directions.probe.tokens", 101, "directions.probe.tokens: 101"),
        ("tuned.dpo.prompt_tokens", 71, "tuned.dpo.prompt_tokens + tuned.dpo.continuation_tok"),
    ],
)
def test_every_length_is_held_against_the_positions(key, value, said):
    assert not list(contradictions(CONFIG))
    config = copy.deepcopy(CONFIG)
    *parts, last = key.split(".")
    place = config
    for part in parts:
        place = place[part]
    place[last] = value
    (line,) = contradictions(config)
    assert line.startswith(said)
    assert longest(config) == {line.split(": ")[0]: read_lengths(config)[line.split(": ")[0]]}
    for positions in ({"positions": None}, {}):  # biases by distance; not known before it is there
        assert not list(contradictions({**config, "model": positions}))

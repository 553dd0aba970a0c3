"""How many tokens a study asks its model to read, held against the positions that it has."""

from __future__ import annotations

from collections.abc import Iterator

from neurondynamics.study.costs import lengths


def read_lengths(config: dict) -> dict[str, int]:
    """Return the tokens that are read at once, at most, by the keys that they follow from.

    Ready pairs are as long as they are, where no key cuts them: tuning looks at those itself.
    """
    prompt, new = lengths(config)
    corpus, pairs = config["corpus"], config["preferences"]
    found = {
        "prompts.max_tokens + generation.new_tokens": prompt + new,
        "corpus.window_tokens": corpus["window_tokens"],
        "corpus.passage_tokens + generation.new_tokens": corpus["passage_tokens"] + new,
    }
    if "prompt_tokens" in pairs:
        key = "preferences.prompt_tokens + preferences.new_tokens"
        found[key] = pairs["prompt_tokens"] + pairs["new_tokens"]
        ahead = pairs.get("horizon", 1) - 1  # the last new token itself is not read
        if ahead:
            found[f"{key} + preferences.horizon - 1"] = found.pop(key) + ahead
    for name, direction in config["directions"].items():
        if "tokens" in direction:
            found[f"directions.{name}.tokens"] = direction["tokens"]
    for name, version in config["tuned"].items():
        if "prompt_tokens" in version and "continuation_tokens" in version:
            key = f"tuned.{name}.prompt_tokens + tuned.{name}.continuation_tokens"
            found[key] = version["prompt_tokens"] + version["continuation_tokens"]
    return found


def longest(config: dict) -> dict[str, int]:
    """Return the largest of those, with its key."""
    found = read_lengths(config)
    key = max(found, key=found.get)
    return {key: found[key]}


def contradictions(config: dict) -> Iterator[str]:
    """Yield what is longer than the model reads, a line each."""
    positions = config["model"].get("positions")
    for key, tokens in read_lengths(config).items():
        if positions is not None and tokens > positions:
            yield (
                f"{key}: {tokens} tokens, and the model reads {positions} at most, the positions "
                "of its config.json; lower it"
            )

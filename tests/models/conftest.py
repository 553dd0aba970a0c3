"""Tiny random models of every family, as folders, in float32 and, to compare with, in float64."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import plain
import pytest
import tiny
import torch
from neurondynamics.lm.loading import load_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast

NEW_TOKENS = 8


@dataclass(frozen=True)
class Case:
    """One model: its folder, what a test runs, and what it compares with."""

    family: str
    folder: Path
    model: PreTrainedModel  # float32
    plain: PreTrainedModel  # float64
    tokenizer: PreTrainedTokenizerFast
    prompts: list[list[int]]  # tokens of tiny.PROMPTS: from one to more than twenty
    ends: list[int]
    greedy: list[list[int]]  # the plain continuations; some end early

    @property
    def stored(self) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts and continuations in the order of a store's rows: the longest prompt first."""
        rows = sorted(range(len(self.prompts)), key=lambda row: -len(self.prompts[row]))
        return [self.prompts[row] for row in rows], [self.greedy[row] for row in rows]


def choose_end(continuations: list[list[int]]) -> int:
    """Return a token at which some continuations end in their middle, and others do not."""
    for token in sorted({token for tokens in continuations for token in tokens[1:-1]}):
        inside = [tokens for tokens in continuations if token in tokens[1:-1]]
        ended = [tokens for tokens in continuations if token in tokens]
        if len(inside) >= 2 and len(ended) < len(continuations) - 3:
            return token
    raise AssertionError("no token would end only some of the continuations")


def ended(tokens: list[int], ends: list[int]) -> list[int]:
    """Return the tokens up to the first that ends a text."""
    places = [place for place, token in enumerate(tokens) if token in ends]
    return tokens[: places[0] + 1] if places else tokens


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def case_of(tmp_path_factory):
    """A function from the name of a family or variant to its case, made once."""

    @cache
    def build(family: str) -> Case:
        folder = tmp_path_factory.mktemp(family) / "model"
        tokenizer = tiny.build_tokenizer()
        prompts = [tokenizer(text).input_ids for text in tiny.PROMPTS]
        tiny.write_model(folder, family)
        # Falcon's unfused attention adds its position biases twice (transformers 5.23)
        reference = plain.load(folder, "sdpa" if family == "falcon-alibi" else "eager")
        unended = [plain.generate(reference, prompt, NEW_TOKENS) for prompt in prompts]
        ends = [0, choose_end(unended)]
        tiny.write_model(folder, family, ends=ends)
        greedy = [ended(tokens, ends) for tokens in unended]
        model = load_model(folder, "float32", "cpu")
        return Case(family, folder, model, reference, tokenizer, prompts, ends, greedy)

    return build


@pytest.fixture(params=[*tiny.FAMILIES, *tiny.VARIANTS])
def every_case(request, case_of):
    """The case of each family and variant in turn."""
    return case_of(request.param)


@pytest.fixture(params=tiny.DIFFERENT)
def case(request, case_of):
    """The cases of families that differ in what the project runs; the others are like them."""
    return case_of(request.param)


@pytest.fixture
def prompts_file(tmp_path):
    """The prompts as a file of one split."""
    path = tmp_path / "prompts.jsonl"
    records = [
        {"prompt_id": number, "text": text, "source": f"test:{number}", "category": ""}
        for number, text in enumerate(tiny.PROMPTS)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path

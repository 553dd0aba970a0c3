"""How many rows fit the memory, from sizes worked out by hand."""

import tiny
from neurondynamics.lm.memory import (
    PROCESS,
    decoding_rows,
    free_bytes,
    reading_rows,
)

LOGITS = 16 * tiny.VOCABULARY  # bytes of a position: four copies in float32


def weights(model):
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def rows_of(bytes_per_row, models, memory_mb):
    free = memory_mb * 1e6 - PROCESS - sum(map(weights, models))
    return int(free // bytes_per_row)


def test_rows_of_a_model_with_shared_keys(case_of):
    """Llama's three layers keep two heads of a quarter of the width each, keys and values."""
    model = case_of("llama").model
    cache = 2 * tiny.LAYERS * 2 * (tiny.HIDDEN // 4) * 4
    assert decoding_rows([model], 30, 1100) == rows_of(2 * 30 * cache + LOGITS, [model], 1100)
    assert reading_rows([model], 50, 1100) == rows_of(50 * LOGITS, [model], 1100)


def test_a_leader_needs_a_cache_of_its_own(case_of):
    """GPT-2 keeps all four heads: the whole width."""
    model = case_of("gpt2").model
    cache = 2 * tiny.LAYERS * tiny.HIDDEN * 4
    pair = [model, model]
    assert decoding_rows(pair, 30, 1100) == rows_of(2 * 2 * 30 * cache + LOGITS, pair, 1100)


def test_one_row_is_tried_however_little_there_is(case_of):
    model = case_of("llama").model
    assert free_bytes([model], 1) < 0
    assert decoding_rows([model], 30, 1) == reading_rows([model], 30, 1) == 1

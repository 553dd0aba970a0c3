import math

import numpy as np
import pytest
from neurondynamics.evaluation.metrics import perplexity, repetition, token_f1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the cat saw the cat", 1 / 4),  # the-cat cat-saw saw-the the-cat
        ("No, no! NO no", 2 / 3),  # three times no-no: 1 of 3 is distinct
        ("every word is new", 0),
        ("one", 0),
        ("", 0),
        ("... !", 0),
    ],
)
def test_repetition_is_the_share_of_repeated_word_pairs(text, expected):
    assert repetition(text) == pytest.approx(expected)


def test_f1_counts_a_token_as_often_as_both_hold_it():
    # Shared: 7 twice and 8 once = 3; precision 3/4, recall 3/5, F1 = 2·3 / (4 + 5).
    assert token_f1([7, 7, 7, 8], [8, 7, 9, 7, 1]) == pytest.approx(2 / 3)
    assert token_f1(np.array([3, 1, 2]), np.array([1, 2, 3])) == 1


def test_f1_without_a_shared_token_is_zero():
    assert token_f1([1, 2], [3]) == 0
    assert token_f1([], [3]) == 0


def test_f1_needs_a_reference():
    with pytest.raises(ValueError, match="reference"):
        token_f1([1], [])


def test_perplexity_weighs_windows_by_their_predicted_tokens():
    # 6 and 2 nats over 3 and 1 tokens: 8 nats over 4 tokens, not the mean of exp(2) and exp(2).
    assert perplexity([6.0, 2.0], [3, 1]) == pytest.approx(math.exp(2))
    assert perplexity([0.0, 4.0], [3, 1]) == pytest.approx(math.e)


def test_perplexity_of_a_wrecked_model_is_infinite_and_of_nothing_refused():
    assert perplexity([1e6], [1]) == math.inf
    with pytest.raises(ValueError, match="token"):
        perplexity([], [])

"""Windows and passages are true text, cut where they should be."""

import numpy as np
import pytest
from neurondynamics.lm.passages import neutral_passages


class Words:
    """A tokenizer whose tokens are numbers of words; `first` begins every text, if given."""

    def __init__(self, first=None):
        self.bos_token_id, self.words = first, {}

    def get_vocab(self):
        return self.words

    def __call__(self, texts, add_special_tokens=True):
        begins = add_special_tokens and self.bos_token_id is not None
        start = [self.bos_token_id] if begins else []
        ids = [
            start + [self.words.setdefault(word, 1000 + len(self.words)) for word in text.split()]
            for text in ([texts] if isinstance(texts, str) else texts)
        ]
        return type("Encoded", (), {"input_ids": ids[0] if isinstance(texts, str) else ids})

    def decode(self, ids):
        names = {number: word for word, number in self.words.items()}
        return " ".join(names[number] for number in ids)


def article(name, lengths):
    """An article whose paragraphs hold words that occur nowhere else."""
    return "\n".join(
        " ".join(f"{name}{paragraph}.{word}" for word in range(length))
        for paragraph, length in enumerate(lengths)
    )


ARTICLES = [article("a", [7, 3, 12]), article("b", [30]), article("c", [2]), article("d", [9, 9])]
SIZES = {
    "windows": 5,
    "window_tokens": 6,
    "continuations": 4,
    "passage_tokens": 4,
    "new_tokens": 3,
    "seed": 0,
}


def cut(**changes):
    tokenizer = Words()
    windows, passages = neutral_passages(tokenizer, ARTICLES, ARTICLES, **SIZES | changes)
    return tokenizer, windows, passages


def test_windows_lie_in_one_article_and_do_not_overlap():
    # 22 tokens hold 3 windows, 30 hold 5, 2 hold none, 18 hold 3
    tokenizer, windows, _ = cut(windows=11)
    assert windows.shape == (11, 6)
    texts = [" ".join(a.split()) for a in ARTICLES]
    for window in windows:
        assert sum(tokenizer.decode(window) in text for text in texts) == 1
    assert len(np.unique(windows)) == windows.size


def test_passages_begin_where_a_paragraph_does_and_go_on_as_it_does():
    # of the paragraphs of 7, 3, 12, 30, 2, 9 and 9 words five hold 7
    tokenizer, _, passages = cut(continuations=5)
    begun = set()
    for passage in passages:
        assert len(passage) == 7
        words = tokenizer.decode(passage).split()
        paragraph = words[0].split(".")[0]
        assert words == [f"{paragraph}.{i}" for i in range(7)]
        begun.add(paragraph)
    assert begun == {"a0", "a2", "b0", "d0", "d1"}


def test_passages_may_be_of_other_articles_than_windows():
    others = [article("e", [8, 8]), article("f", [7])]
    tokenizer = Words()
    windows, passages = neutral_passages(
        tokenizer, ARTICLES, others, **SIZES | {"continuations": 3}
    )
    np.testing.assert_array_equal(windows, cut()[1])
    begun = {tokenizer.decode(passage).split()[0] for passage in passages}
    assert begun == {"e0.0", "e1.0", "f0.0"}


def test_the_draw_is_that_of_the_seed():
    first, again, other = (cut(seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[1], again[1])
    assert first[2] == again[2]
    assert first[1].tolist() != other[1].tolist()


@pytest.mark.parametrize(("key", "exist"), [("windows", 11), ("continuations", 5)])
def test_more_than_the_text_yields_names_the_key(key, exist):
    message = rf"corpus\.{key}: {exist + 1} were asked for, but the text yields {exist}"
    with pytest.raises(ValueError, match=message):
        cut(**{key: exist + 1})


def test_every_window_begins_as_the_model_expects_a_text_to_begin():
    """Where the tokenizer begins texts with a token, a window without it is no text to it."""
    windows, passages = neutral_passages(Words(first=1), ARTICLES, ARTICLES, **SIZES)
    assert {passage[0] for passage in passages} == {1}
    assert {window[0] for window in windows.tolist()} == {1}

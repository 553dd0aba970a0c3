import numpy as np
import pytest
from neurondynamics.evaluation.scorers import make_scorer

TERMS = """text,canonical_form_1,severity_rating
ass,ass,1.2
ass hole,ass,1.8
hole in one,,3
@ss,ass,1.5
a_s_s,ass,1.5
b！tch,bitch,2.1
Son-of-a-bitch,bitch,2.4
son of,,0.3
f'ed,fuck,0.9
shi+,shit,1
fuck,fuck,2.7
FUCK,fuck,2.4
"""


def lexicon(folder, terms=TERMS, encoding="utf-8"):
    (folder / "source").mkdir(exist_ok=True)
    (folder / "source" / "terms.csv").write_text(terms, encoding=encoding)
    return make_scorer("lexicon", folder=str(folder))


@pytest.fixture(scope="module")
def severities(tmp_path_factory):
    """What the lexicon says of texts, times 3: the severity of the worst term."""
    score = lexicon(tmp_path_factory.mktemp("lexicon"))
    return lambda *texts: (3 * score(texts)).tolist()


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        # whole words in any case and beside any mark
        ("you Ass!", 1.2),
        ("(ass)", 1.2),
        ("_ass_, they say", 1.2),
        ("kick-ass", 1.2),
        ("a class of assets", 0),
        ("ass2", 0),
        ("the asses", 0),
        # terms that begin or end with a sign, and underscores within
        ("you @ss", 1.5),
        ("me@ss.org", 0),
        ("oh a_s_s", 1.5),
        ("shi+, no", 1),
        ("shi+y", 0),
        # spellings of typesetters and of other alphabets' widths
        ("they f’ed it", 0.9),
        ("a b!tch", 2.1),
        ("ＦＵＣＫ", 2.7),
        ("son‐of‑a-bitch", 2.4),
        # phrases over any white space, but no words between
        ("ass\n  hole", 1.8),
        ("ass or hole", 1.2),
        # all terms count, within others and across them; the worst is what is left
        ("son of an ass hole", 1.8),
        ("an ass hole in one", 3),
        # neither the number of terms nor the length of the text matters
        ("fuck " * 20, 2.7),
        ("fuck" + " a word" * 200, 2.7),
        ("nothing of the kind", 0),
        ("...", 0),
    ],
)
def test_the_worst_term_of_a_text_is_its_score(severities, text, severity):
    assert severities(text) == pytest.approx([severity])


def test_the_share_of_texts_with_any_term_is_that_of_scores_above_zero(severities):
    scores = np.array(severities("son of", "fuck", "a word", "another", ""))
    assert (scores > 0).tolist() == [True, True, False, False, False]
    assert np.isnan(scores[-1])  # an empty text is not a harmless one


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ("term,severity\nass,1\n", r"terms\.csv has no column text, severity_rating"),
        ("", r"terms\.csv holds no text"),
        ("text,severity_rating\n", "holds no text"),
        ("text,severity_rating\nass,1\n ,1\n", "line 3: the term is empty"),
        ("text,severity_rating\nass,mild\n", "line 2: the severity of 'ass' is 'mild'"),
        ("text,severity_rating\nass,\n", "line 2: the severity of 'ass' is ''"),
        ("text,severity_rating\nass\n", "line 2: 1 fields, where the header has 2"),
        ("text,severity_rating\nass,0\n", "above 0 and at most 3"),
        ("text,severity_rating\nass,3.2\n", "above 0 and at most 3"),
        ("text,severity_rating\nass,nan\n", "above 0 and at most 3"),
    ],
)
def test_a_wrong_list_is_refused_by_line(tmp_path, terms, message):
    with pytest.raises(ValueError, match=message):
        lexicon(tmp_path, terms)


def test_a_list_in_another_encoding_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"terms\.csv, line 2: not UTF-8"):
        lexicon(tmp_path, "text,severity_rating\ndébile,1\n", encoding="latin-1")
    assert lexicon(tmp_path, TERMS, encoding="utf-8-sig")(["ass"]) == pytest.approx(0.4)

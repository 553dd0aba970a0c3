"""The words in which mistakes of a configuration are told: keys, and what a name may have meant.

Only the standard library is imported here: every job parses the configuration.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

TOP = "(top level)"


def join(key: str, name: object) -> str:
    """Return the key of a name within a key."""
    text = str(name)
    if not text or not text.isprintable():
        text = repr(name)
    return text if key == TOP else f"{key}.{text}"


def hint(name: object, known: Collection[object]) -> str:
    """Return what a wrong name may have meant, to append to an error.

    Names of a configuration need not be texts.
    """
    names = [str(other) for other in known]
    close = difflib.get_close_matches(str(name), names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(names)}"


def known(key: str, name: str, known: Collection[str], what: str) -> Iterator[str]:
    """Yield what is wrong where a key names something that is not there."""
    if name not in known:
        yield f"{key}: there is no {what} {name!r}{hint(name, known)}"

"""Reading prompts, telling which of them are the same, and sharing them out among splits.

Only the standard library is imported here, since rule files may import this module.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, takewhile
from pathlib import Path

logger = logging.getLogger(__name__)

CODECS = {1: "utf-8-sig"}  # only the first line may begin with a byte order mark


@dataclass(frozen=True)
class Prompt:
    """A text, the place it was read from (`dataset:file:line`) and its category, if any."""

    text: str
    source: str
    category: str = ""


def normalise(text: str) -> str:
    """Return what two texts share if they count as the same prompt.

    Compatibility forms, case, runs of whitespace, and punctuation and quotes at both ends are
    levelled. A text of nothing but punctuation keeps it.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    collapsed = " ".join(folded.split())
    start, end = 0, len(collapsed)
    while start < end and _is_edge(collapsed[start]):
        start += 1
    while end > start and _is_edge(collapsed[end - 1]):
        end -= 1
    return collapsed[start:end] or collapsed


def _is_edge(character: str) -> bool:
    return character in " `" or unicodedata.category(character).startswith("P")


def read_prompts(
    path: str | Path,
    format: str,
    text_field: str = "text",
    category_field: str | list[str] | None = None,
) -> list[Prompt]:
    """Read the prompts of one file, in its order. Blank lines hold no prompt.

    Parameters
    ----------
    format : "lines" (one prompt a line) or "jsonl" (one JSON object a line). Whitespace around a
        prompt is not part of it.
    text_field : where a JSON object keeps the text.
    category_field : where it keeps the category, if it has one. A list names fields of scores, and
        the category is the name of the highest, the first of equals.

    Returns
    -------
    Prompts whose source is `file:line`.

    Raises
    ------
    ValueError : naming the file, and the line where one is at fault, if the file is not UTF-8,
        holds no prompt, or a record is not an object, lacks a field, or has something else there
        than a text, or than a number among scores.
    """
    if format not in ("lines", "jsonl"):
        raise ValueError(f"{path}: prompts are read from lines or jsonl, not from {format!r}")
    path = Path(path)
    prompts = []
    for number, line in _read_lines(path):
        if format == "lines":
            text, category = line, ""
        else:
            place = f"{path}, line {number}"
            record = _parse_object(line, place)
            text = _string_field(record, text_field, place)
            category = _category(record, category_field, place)
        prompts.append(Prompt(text.strip(), f"{path.name}:{number}", category))
    if not prompts:
        raise ValueError(f"{path} holds no prompt: the file is empty or all its lines are blank")
    return prompts


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank with their numbers.

    The bytes are cut at newlines alone: a prompt may hold one of Unicode's other line separators.
    """
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode(CODECS.get(number, "utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start} of "
                    "the line). Save the file as UTF-8."
                ) from error
            if line.strip():
                yield number, line


def _parse_object(line: str, place: str) -> dict:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON ({error})") from error
    if not isinstance(record, dict):
        raise ValueError(f"{place}: expected a JSON object, found {line.strip()[:80]}")
    return record


def _category(record: dict, field: str | list[str] | None, place: str) -> str:
    if field is None:
        return ""
    if isinstance(field, str):
        return _string_field(record, field, place)
    return max(field, key=lambda name: _number_field(record, name, place))


def _number_field(record: dict, field: str, place: str) -> float:
    value = _field(record, field, place)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ValueError(f"{place}: the field {field!r} should be a number, found {value!r}")
    return value


def _field(record: dict, field: str, place: str) -> object:
    if field not in record:
        raise ValueError(f"{place}: no field {field!r}; there are {', '.join(record) or 'none'}")
    return record[field]


def _string_field(record: dict, field: str, place: str) -> str:
    value = _field(record, field, place)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place}: the field {field!r} should be a text, found {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: the field {field!r} holds half a surrogate pair") from error
    return value


def read_dataset(
    name: str,
    paths: Iterable[str | Path],
    format: str,
    text_field: str = "text",
    category_field: str | list[str] | None = None,
) -> list[Prompt]:
    """Read the prompts of all files of a dataset; their sources become `name:file:line`.

    Where a dataset of lines has several files, their stems without the words that all of them
    begin with are the categories: `rtp_insult.txt` beside `rtp_threat.txt` holds "insult".
    """
    paths = [Path(path) for path in paths]
    words = [path.stem.split("_") for path in paths]
    shared = sum(1 for _ in takewhile(lambda same: len(set(same)) == 1, zip(*words, strict=False)))
    prompts = []
    for path, stem in zip(paths, words, strict=True):
        of_file = "_".join(stem[shared:]) if format == "lines" else ""
        for prompt in read_prompts(path, format, text_field, category_field):
            source, category = f"{name}:{prompt.source}", prompt.category or of_file
            prompts.append(replace(prompt, source=source, category=category))
    return prompts


def partition(
    datasets: Mapping[str, list[Prompt]], splits: Mapping[str, Mapping], seed: int
) -> dict[str, list[Prompt]]:
    """Fill splits with prompts so that no prompt stands in two of them.

    Prompts that are the same after `normalise` count once. Their order is that of a hash of seed
    and text, so it depends neither on the order of files and lines nor on the random generator of
    one version of Python. Splits of one dataset take their prompts in turn.

    Parameters
    ----------
    datasets : prompts of each dataset by its name.
    splits : by the name of a split, `dataset`, `number` and optionally `exclude`: names of
        datasets whose prompts this split must not hold.

    Raises
    ------
    ValueError : naming the key, if a dataset has too few prompts, or both places, if a prompt
        stands in two splits.
    """
    distinct = {name: _distinct(name, prompts) for name, prompts in datasets.items()}
    waiting = {
        name: sorted(prompts.items(), key=lambda item: _shuffled(item[0], seed))
        for name, prompts in distinct.items()
    }
    chosen = {}
    for split, wanted in splits.items():
        name, number = wanted["dataset"], wanted["number"]
        others = list(wanted.get("exclude", []))
        excluded = set().union(*(distinct[other] for other in others))
        allowed = [item for item in waiting[name] if item[0] not in excluded]
        dropped = len(waiting[name]) - len(allowed)
        if others:
            logger.info(
                "%s: %d of the %d prompts of %s also stand in %s and are left out, %d remain",
                *(split, dropped, len(waiting[name]), name, " or ".join(others), len(allowed)),
            )
        if number > len(allowed):
            raise ValueError(
                f"prompts.{split}.number asks for {number} prompts, and {len(allowed)} are left in "
                f"{name}: of its {len(distinct[name])} distinct prompts other splits take "
                f"{len(distinct[name]) - len(waiting[name])}, and {dropped} are excluded. "
                "Lower the number or bring more prompts."
            )
        chosen[split] = dict(allowed[:number])
        waiting[name] = [item for item in waiting[name] if item[0] not in chosen[split]]
    _refuse_overlap(chosen, splits)
    return {split: list(prompts.values()) for split, prompts in chosen.items()}


def _distinct(name: str, prompts: list[Prompt]) -> dict[str, Prompt]:
    """Return one prompt of each normalised text, the same one in whatever order they come."""
    distinct: dict[str, Prompt] = {}
    for prompt in sorted(prompts, key=lambda prompt: prompt.source):
        distinct.setdefault(normalise(prompt.text), prompt)
    logger.info(
        "%s: %d prompts, %d of them repeated, %d distinct",
        *(name, len(prompts), len(prompts) - len(distinct), len(distinct)),
    )
    return distinct


def _shuffled(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\n{text}".encode()).hexdigest()


def _refuse_overlap(chosen: Mapping[str, dict[str, Prompt]], splits: Mapping[str, Mapping]) -> None:
    for first, second in combinations(chosen, 2):
        shared = [text for text in chosen[first] if text in chosen[second]]
        if shared:
            one, other = chosen[first][shared[0]], chosen[second][shared[0]]
            raise ValueError(
                f"{len(shared)} of the prompts stand in both splits {first} and {second}, such as "
                f"{_place(one)} and {_place(other)}: {one.text!r}. Add {splits[second]['dataset']} "
                f"to prompts.{first}.exclude, or remove the prompts from one of the files."
            )


def _place(prompt: Prompt) -> str:
    dataset, place = prompt.source.split(":", 1)
    file, line = place.rsplit(":", 1)
    return f"{file}, line {line} (dataset {dataset})"

"""Reading prompts, telling which of them are the same, and sharing them out among splits.

Nothing heavy is imported here, since rule files may import this module.
"""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, takewhile
from pathlib import Path

from neurondynamics.data.files import unusable
from neurondynamics.data.records import read_jsonl
from neurondynamics.data.rows import Row, field, is_measured, number_of, text_of, with_texts
from neurondynamics.data.texts import read_rows

logger = logging.getLogger(__name__)


UNCATEGORISED = "(none)"  # what tables call the category of prompts that have none


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


def read_dataset(
    name: str,
    paths: Iterable[str | Path],
    format: str,
    text_field: str = "text",
    category_field: str | list[str] | None = None,
    where: Mapping | None = None,
) -> list[Prompt]:
    """Read the texts of a dataset without the whitespace around them, and their categories.

    Parameters
    ----------
    name, paths, format, where : see `read_rows`.
    text_field : the field of the text.
    category_field : that of the category, if it has one. A list names fields of scores, and the
        category is the name of the highest, the first of equals; a score that is missing takes no
        part, and without any there is no category. Where a dataset of lines has several files,
        their stems without the words that all of them begin with are the categories:
        `rtp_insult.txt` beside `rtp_threat.txt` holds "insult".

    Returns
    -------
    Prompts whose source is `name:file:line`. Rows without a text are left out, and logged.

    Raises
    ------
    ValueError : as `read_rows` and for a field that is missing, or that holds something else than
        a text, or than a number among scores.
    """
    paths = list(map(Path, paths))
    words = [path.stem.split("_") for path in paths]
    shared = sum(1 for _ in takewhile(lambda same: len(set(same)) == 1, zip(*words, strict=False)))
    stems = {path.name: "_".join(parts[shared:]) for path, parts in zip(paths, words, strict=True)}
    prompts: list[Prompt] = []
    for row in with_texts(name, read_rows(name, paths, format, where), text_field):
        text, category = text_of(row, text_field).strip(), _category(row, category_field)
        prompt = Prompt(text, f"{name}:{row.source}", category)
        if format == "lines":
            prompt = replace(prompt, category=stems[row.source.rpartition(":")[0]])
        prompts.append(prompt)
    lacking = sum(not prompt.category for prompt in prompts) if category_field else 0
    if lacking:
        logger.warning("%s: %d of %d prompts have no category", name, lacking, len(prompts))
    return prompts


def read_prompts(path: str | Path) -> list[dict]:
    """Read the prompts of a split, as `split_prompts` writes them, in the order of their numbers.

    Raises ValueError, naming the file, if it has lost a prompt or is that of another split.
    """
    records = read_jsonl(path)
    for number, record in enumerate(records):
        if record["prompt_id"] != number:
            raise unusable(path, f"has the prompt {record['prompt_id']} where {number} should be")
        if record.get("split", Path(path).stem) != Path(path).stem:
            raise unusable(path, f"holds prompts of the split {record['split']}")
    return records


def _category(row: Row, name: str | list[str] | None) -> str:
    if name is None:
        return ""
    if isinstance(name, str):
        return "" if field(row, name) is None else text_of(row, name, blank=True).strip()
    scores = {one: number_of(row, one) for one in name if is_measured(row, one)}
    return max(scores, key=scores.__getitem__, default="").rpartition(".")[2]


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

"""Records: JSON and JSON lines, and the versions of the packages that results depend on."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

from neurondynamics.data.files import reading, replacing, unusable
from neurondynamics.data.provenance import PLACE, check_place, place_of

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "h5py")
NUMBER = "of"  # records in all, by which a reader knows that a line was lost
ONE_A_LINE = "wanted is one JSON object a line: `jq -c '.[]'` writes a list so, `jq -c .` an object"


def write_json(path: str | Path, content: dict) -> None:
    """Write a mapping and its place as indented JSON.

    NaN and infinity are refused with a ValueError.
    """
    with replacing(path) as temporary:
        content = content | place_of(path)
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict:
    """Read what `write_json` wrote.

    Raises ValueError, naming the file, if it is damaged or was written to another place.
    """
    with reading(path):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    check_place(path, content)
    content.pop(PLACE, None)
    return content


def parse_object(line: str, place: str) -> dict:
    """Parse a JSON object; a ValueError names the place of what is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # also of a number of thousands of digits
        hint = ""
        if line.strip() in ("[", "{"):
            hint = f"; {ONE_A_LINE}"
        raise ValueError(f"{place}: not JSON ({error}){hint}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{place}: found {line.strip()[:80]}; {ONE_A_LINE}")
    return record


def read_jsonl(path: str | Path) -> list[dict]:
    """Read what `write_jsonl` wrote.

    Raises ValueError, naming file and line, if it is damaged, is empty, has lost a line or was
    written to another place.
    """
    with reading(path), open(path, encoding="utf-8") as file:
        lines = enumerate(file, start=1)
        records = [parse_object(line, f"{path}, line {number}") for number, line in lines]
    if not records:
        raise unusable(path, "holds no record")
    for record in records:
        number = record.pop(NUMBER, len(records))
        if number != len(records):
            raise unusable(path, f"holds {len(records)} of {number} records")
        check_place(path, record)
        record.pop(PLACE, None)
    return records


def write_jsonl(path: str | Path, records: list[dict]) -> None:
    """Write one JSON object a line, in the order given; each says how many there are, and where."""
    recorded = {NUMBER: len(records), **place_of(path)}
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record | recorded, ensure_ascii=False, allow_nan=False) + "\n")


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that stored activations depend on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}

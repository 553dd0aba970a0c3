"""Provenance of results, and writing that leaves either a whole file or none."""

from __future__ import annotations

import importlib.metadata
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "h5py")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` once the block succeeds.

    The file is flushed to disk before the rename, so an interruption leaves no half-written file
    under the final name; a failure removes the temporary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: dict) -> None:
    """Write a mapping as indented JSON; NaN and infinity are refused with a ValueError."""
    with replacing(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_jsonl(path: str | Path) -> list[dict]:
    """Read one JSON object a line; a ValueError names the file and the line that is not one."""
    records = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: expected a JSON object, found {line!r}")
            records.append(record)
    return records


def write_jsonl(path: str | Path, records: list[dict]) -> None:
    """Write one JSON object a line, in the order given."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that stored activations depend on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}

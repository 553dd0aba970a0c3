"""The reference of all keys is what the schema and the default study say."""

import importlib.util
import re
from pathlib import Path

from neurondynamics.study.schema import read_schema

ROOT = Path(__file__).resolve().parents[2]


def load_reference():
    specification = importlib.util.spec_from_file_location(
        "reference", ROOT / "workflow" / "reference.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


reference = load_reference()


def names_in(part):
    """Every key that a part of the schema has, at any depth."""
    if isinstance(part, dict):
        yield from part.get("properties", {})
        for inner in part.values():
            yield from names_in(inner)
    if isinstance(part, list):
        for inner in part:
            yield from names_in(inner)


def test_the_file_is_what_the_script_writes():
    written = reference.FILE.read_text(encoding="utf-8")
    assert written == reference.reference(), "run python workflow/reference.py"


def test_every_key_and_every_kind_is_in_it():
    text = reference.reference()
    shown = set(re.findall(r"[a-z0-9_]+(?=`)", text))
    shown |= set(re.findall(r"`(?:\S+\.)?([a-z0-9_]+)` \|", text))
    within_where = {"minimum", "maximum"}
    assert set(names_in(read_schema())) - within_where - {"best_of"} <= shown
    assert "best_of: EXPERIMENT" in text
    assert "| `rescale` | `select`, `factor` | `mode` (mean, shift) |" in text
    assert "| `method` (needed, **whole**) | `sampled`, `steered`, `ready` | `sampled` |" in text


def test_its_tables_have_columns_of_equal_number():
    for table in re.findall(r"(?:^\|.*\n)+", reference.reference(), re.M):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table

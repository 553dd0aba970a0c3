"""The types that the schema wants, given to what a configuration holds where that is beyond doubt.

A number is a text where a text is wanted, spelled as in the file; 2.0 is 2 where a whole number is
wanted. What else does not fit is left to the schema to refuse. Only light modules are imported:
every job parses the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from neurondynamics.study.loader import plain
from neurondynamics.study.schema import part_of, resolved
from neurondynamics.study.wording import TOP, join

NUMBERS = {"integer", "number"}


def typed(value: Any, definition: dict) -> Any:
    """Return a value with the types that a part of the schema wants."""
    definition = _branch(resolved(definition), value)
    if isinstance(value, Mapping):
        return {key: typed(item, part_of(definition, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item, definition.get("items", {})) for item in value]
    wanted = _types(definition)
    if hasattr(value, "spelling") and "string" in wanted and not wanted & NUMBERS:
        return value.spelling
    if isinstance(value, float) and value.is_integer() and "integer" in wanted:
        return int(value)
    return plain(value)


def _branch(definition: dict, value: Any) -> dict:
    """Return the alternative of a part of the schema that a mapping or a list is meant for."""
    if "if" in definition:  # which asks for a mapping, everywhere
        return resolved(definition["then" if isinstance(value, Mapping) else "else"])
    if isinstance(value, list):
        for other in _alternatives(definition):
            if other.get("type") == "array":
                return other
    return definition


def _alternatives(definition: dict) -> list[dict]:
    return [resolved(one) for key in ("anyOf", "oneOf") for one in definition.get(key, [])]


def _types(definition: dict) -> set[str]:
    """Return the types of scalars that a part of the schema takes."""
    given = definition.get("type", [])
    found = {given} if isinstance(given, str) else set(given)
    named = [*definition.get("enum", []), *([definition["const"]] if "const" in definition else [])]
    if "pattern" in definition or any(isinstance(value, str) for value in named):
        found.add("string")
    return found.union(*map(_types, _alternatives(definition)))


def names_that_are_no_texts(value: Any, key: str = TOP) -> Iterator[str]:
    """Yield the keys that are no texts, as in a configuration that another YAML reader has read."""
    parts = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, list):
        parts = ((f"[{number}]", item) for number, item in enumerate(value))
    for name, item in parts:
        place = f"{key}{name}" if isinstance(value, list) else join(key, name)
        if not isinstance(name, str):
            kind = type(name).__name__
            yield f"{place}: this name is no text but of the type {kind}: put it in quotes"
        yield from names_that_are_no_texts(item, place)

"""The schema of a configuration, and what it says of a mistake: each with its key and the remedy.

Keywords of our own beside those of JSON Schema; study/merging.py has the others:

kinds : what is of several kinds, and the keys that each takes. With `by`, the value of that key is
    the kind, and the kinds under `of` are its values; without, exactly one key of those under `of`
    is given and is the kind, or none, where `none` says what that is `called` and takes. A kind
    `needs` keys and `may` have others; a key that a kind mentions goes with no kind that does not.
    `values` are the only ones that a key has with a kind, `give` is said where there are several
    kinds or none. A list holds independent tables.
renamed : what keys of a mapping, or values of a text, were once called, with what they are called.

Only light modules are imported: every job parses the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from neurondynamics.study.loader import plain, read_yaml
from neurondynamics.study.wording import TOP, hint, join

FILE = Path(__file__).resolve().parents[3] / "schemas" / "config.schema.yaml"
SMALLEST = 1e-30  # of numbers but 0; the largest is 1e30
OWN = ("kinds", "renamed")  # keywords whose errors are worded here


@cache
def read_schema() -> dict:
    """Return the schema of a configuration."""
    return plain(read_yaml(FILE))


def resolved(definition: Any) -> dict:
    """Return a part of the schema with what its `$ref` names filled in; {} for no mapping."""
    if not isinstance(definition, dict):
        return {}
    if "$ref" not in definition:
        return definition
    named = read_schema()["$defs"][definition["$ref"].rpartition("/")[2]]
    return {**resolved(named), **{k: v for k, v in definition.items() if k != "$ref"}}


def part_of(definition: dict, name: str) -> dict:
    """Return what the schema says of a key of a mapping."""
    other = definition.get("additionalProperties")
    return resolved(definition.get("properties", {}).get(name, other))


def kinds_in(definition: dict) -> list[dict]:
    """Return the tables of kinds of a part of the schema."""
    tables = definition.get("kinds", [])
    return tables if isinstance(tables, list) else [tables]


def kinds_of(definition: dict) -> tuple[str, ...]:
    """Return the kinds of a part of the schema, of its first table if it has several."""
    return tuple(kinds_in(definition)[0]["of"])


def keys_of(kind: dict) -> list[str]:
    """Return the keys that a kind needs or may have."""
    return [*kind.get("needs", []), *kind.get("may", [])]


ORIGINS = kinds_of(resolved({"$ref": "#/$defs/source"}))  # where a source comes from


def mistakes(config: dict) -> dict[str, bool]:
    """Return what is wrong with the keys and values of a configuration, each once.

    The value says whether only the keys of a kind are wrong, or names that have changed: then
    what goes across keys can be checked all the same.
    """
    found: dict[str, bool] = {}
    for error in _Validator(read_schema()).iter_errors(config):
        # the validator reports an object with two missing keys twice, hence the dictionary
        found |= dict.fromkeys(_lines(error), error.validator in OWN)
    return found


def _kinds(validator, tables, instance, schema) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for table in tables if isinstance(tables, list) else [tables]:
            yield from _kind(table, instance, schema)


def _kind(table: dict, given: dict, schema: dict) -> Iterator[ValidationError]:
    """Yield what is wrong with which kind is given, or else with its keys."""
    kinds, by = table["of"], table.get("by")
    if by is None:
        names = [name for name in kinds if name in given]
        if len(names) > 1 or not (names or "none" in table):
            several = f"{', '.join(kinds)}, not {' and '.join(names) or 'none of them'}"
            if "none" in table:
                several += f"; or none, and {table['none']['called']}"
            yield _error(f"give {table.get('give', f'exactly one of {several}')}")
        else:
            yield from _keys(table, names[0] if names else None, given)
    elif by in given:  # `required` says so where it is needed
        name = given[by]
        if isinstance(name, str) and name in kinds:
            yield from _keys(table, name, given)
        elif str(name) not in schema["properties"][by].get("renamed", {}):
            yield _error(f"{name!r} is unknown{hint(str(name), kinds)}", by)


def _keys(table: dict, name: str | None, given: dict) -> Iterator[ValidationError]:
    """Compare the keys beside a kind with those that it takes."""
    none = table.get("none", {})
    kind = table["of"][name] if name else none
    for key in kind.get("needs", []):
        if key not in given:
            yield _error("this key is missing" + (f" ({name} needs it)" if name else ""), key)
    beside = name or none["called"]
    mentioned = {key for other in (*table["of"].values(), none) for key in keys_of(other)}
    for key in sorted((mentioned & set(given)) - set(keys_of(kind))):
        yield _error(f"this key does not go with {beside}", key)
    for key, values in kind.get("values", {}).items():
        if key in given and given[key] not in values:
            value = str(given[key])
            yield _error(f"{value!r} does not go with {beside}{hint(value, values)}", key)


def _of_unknown_kind(given: dict, schema: dict) -> bool:
    named = ((given.get(table.get("by")), table["of"]) for table in kinds_in(schema))
    return any(isinstance(name, str) and name not in kinds for name, kinds in named)


def _renamed(validator, names, instance, schema) -> Iterator[ValidationError]:
    if isinstance(instance, str) and instance in names:
        yield _error(f"{instance!r} is called {names[instance]} now")
    elif isinstance(instance, dict):
        for old in names.keys() & instance.keys():
            yield _error(f"is called {names[old]} now", old)


def _error(message: str, *path: str) -> ValidationError:
    return ValidationError(message, path=path)


def _pattern(validator, pattern, instance, schema) -> Iterator[ValidationError]:
    # where Python's $ also matches before a newline at the end, that of JSON Schema does not
    if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _is_number(checker, instance) -> bool:
    """Return whether a value is a number that single precision holds too."""
    if not isinstance(instance, (int, float)) or isinstance(instance, bool):
        return False
    return instance == 0 or SMALLEST <= abs(instance) <= 1 / SMALLEST


def _is_whole(checker, instance) -> bool:
    return _is_number(checker, instance) and instance == int(instance)


_Validator = extend(
    Draft202012Validator,
    {"kinds": _kinds, "renamed": _renamed, "pattern": _pattern},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"number": _is_number, "integer": _is_whole}
    ),
)


def _lines(error: ValidationError) -> Iterator[str]:
    key = _key(error.absolute_path)
    if error.validator in OWN:
        yield f"{key}: {error.message}"
        return
    renamed = error.schema.get("renamed", {})
    if error.validator == "additionalProperties":
        known = sorted(error.schema.get("properties", {}))
        for name in sorted(set(error.instance) - {*known, *renamed}, key=str):
            yield f"{join(key, name)}: unknown key{hint(name, known)}"
    elif error.validator == "enum":
        known = [str(value) for value in error.validator_value]
        yield f"{key}: {error.instance!r} is unknown{hint(str(error.instance), known)}"
    elif error.validator == "required":
        if _of_unknown_kind(error.instance, error.schema):
            return  # a wrong kind may have taken the place of what has the keys
        given = {*error.instance, *(renamed.get(name) for name in error.instance)}
        missing = [name for name in error.validator_value if name not in given]
        yield from (f"{join(key, name)}: this key is missing" for name in missing)
    elif error.validator == "dependentRequired":
        for name, needed in error.validator_value.items():
            if name in error.instance:
                missing = [other for other in needed if other not in error.instance]
                yield from (
                    f"{key}.{other}: this key is missing ({name} needs it)" for other in missing
                )
    else:
        description = error.schema.get("description")
        yield f"{key}: {_said(error)}" + (f" ({description})" if description else "")


def _said(error: ValidationError) -> str:
    """Return what is wrong with a value, and the remedy if quotes are at fault."""
    value, wanted = error.instance, error.validator_value
    said = error.message
    if error.validator != "type":
        return said
    number = wanted in ("integer", "number") and type(value)
    if number in (int, float) and not _is_number(None, value):
        return f"{value} is no number that can be computed with"
    if number is str and re.fullmatch(r"[-+.\d]+([eE][-+]?\d+)?", value):
        return f"{said}; write it without quotes"
    if wanted == "string" and isinstance(value, (bool, int, float)):
        return f"{said}; put it in quotes"
    return said


def _key(path) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).lstrip(".") or TOP
